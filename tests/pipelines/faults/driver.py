"""Runs commands of histogen, each in a fork of one warm process, on a disk that fails at a given call.

Its arguments name modules to import first. It reads a job as a line of JSON and answers with a line of JSON: exit code,
calls counted, standard error.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

from cli.main import main
from histogen.lease import give_back_all

KINDS = ("none", "ENOSPC", "EIO", "EROFS", "short", "crash", "power")
disk = ctypes.CDLL(os.environ["LD_PRELOAD"])


def run(job: dict[str, Any]) -> int:
    """Run one command; arm the disk just before."""
    sys.argv = ["histogen", *job["command"]]
    how, when = KINDS.index(job["kind"]), job["at"]
    disk.faulty_disk_arm(os.fsencode(job["disk"]), os.fsencode(job["aside"]), how, when)
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:  # noqa: BLE001 - it is told, and has a code of its own
        traceback.print_exc()
        return 70
    return 0


def forked(job: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a child that ends with it."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as counted:
        pid = os.fork()
        if pid == 0:
            os.chdir(job["folder"])
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            code = run(job)
            give_back_all()
            sys.stderr.flush()
            os.pwrite(counted.fileno(), str(disk.faulty_disk_count()).encode(), 0)
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        errors.seek(0)
        counted.seek(0)
        said = errors.read().decode(errors="replace")
        return {"code": os.waitstatus_to_exitcode(status), "calls": int(counted.read() or 0), "errors": said}


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(forked(json.loads(line))) + "\n")
        sys.stdout.flush()
