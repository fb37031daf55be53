"""One writer per output: a file in it that says who writes there, for as long as that process lives.

The file is made whole under another name and linked, which one process alone can do, on network file systems too.
Whether its owner lives is asked of this machine where it is the owner's; elsewhere the owner's file must have been
touched within ``PATIENCE_SECONDS``, by the clock of the file system itself. Which process is which is known by its
number and the time of its start, as numbers come again.
"""

from __future__ import annotations

import atexit
import datetime
import errno
import functools
import json
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from histogen.errors import OutputInUseError
from histogen.files import TEMPORARY, naming, write_atomic
from histogen.remote import is_remote, write_new

LEASE_NAME = "writer.json"
BEAT_SECONDS = 20.0
PATIENCE_SECONDS = 180.0
"""A file of another machine that nobody touched for so long is nobody's."""
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems without links answer (FAT, some network and user-space ones)."""

P = ParamSpec("P")
R = TypeVar("R")
_held: dict[Path, str] = {}
_lock = threading.Lock()
_beat: threading.Thread | None = None


def take(folder: Path) -> None:
    """Become the only writer in ``folder``, which exists, until :func:`give_back` or the end of this process.

    A lease of a process that is no more is taken over, and said. Taking what this process holds changes nothing.

    Raises:
        OutputInUseError: another process writes there.
        OSError: ``folder`` cannot be written.
    """
    path = (folder / LEASE_NAME).resolve()
    with _lock:
        if path in _held and _content(path) == _held[path]:
            return
        ours = json.dumps({**_identity(), "token": uuid.uuid4().hex})
        with _alone(path.parent):
            while not _create(path, ours):
                judged = _content(path)
                if judged is not None and (said := _writer(path, judged)) is not None:
                    raise OutputInUseError(f"'{folder}' is being written by {said}; wait for it or stop it")
                if judged is not None and _take_away(path, judged):
                    sys.stderr.write(f"'{folder}': {_told(judged)} wrote here and is no more; taken over\n")
        _held[path] = ours
        _start_beating()


def give_back(folder: Path) -> None:
    """Let others write in ``folder``; nothing happens where this process is not its writer."""
    _drop((folder / LEASE_NAME).resolve())


@atexit.register
def give_back_all() -> None:
    """Let others write wherever this process does."""
    for path in list(_held):
        _drop(path)


def for_its_output(run: Callable[P, R]) -> Callable[P, R]:
    """Decorate a stage ``run(config, …)``: what it takes of ``config.out`` is given back however it ends."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        config: Any = args[0]
        try:
            return run(*args, **kwargs)
        finally:
            give_back(lease_folder(config.out))

    return wrapped


def lease_folder(out: Path) -> Path:
    """Return where the lease of an output lies: a tile store keeps it in its ledger, where Zarr looks for no arrays."""
    return out / "ledger" if out.suffix == ".zarr" else out


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time judge and take over what lies in ``folder``.

    Two that find the same dead owner could otherwise take each other's new lease away. Where a folder cannot be locked
    (network file systems), a process that lost its lease so ends with the next beat.
    """
    if os.name == "nt" or is_remote(folder):  # no folder can be opened there
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):  # not by closing: a child that was forked meanwhile has it open too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _drop(path: Path) -> None:
    with _lock:
        ours = _held.pop(path, None)
        # a forked child that ends is not the writer
        if ours is not None and _parsed(ours)["pid"] == os.getpid() and _content(path) == ours:
            with suppress(OSError):  # a disk that has become read-only; that this process ends says the same
                path.unlink(missing_ok=True)


def _create(path: Path, content: str) -> bool:
    """Make ``path`` with ``content`` unless it is there; in one step, so that no end of this process leaves half."""
    if is_remote(path):
        return write_new(path, content.encode())
    whole = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with naming(path):
            with whole.open("w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(whole)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _create_open(path, content)
    else:
        return True
    finally:
        with suppress(OSError):  # on a disk that has become full or read-only too; the next run removes it
            whole.unlink(missing_ok=True)


def _create_open(path: Path, content: str) -> bool:
    """The same on a file system without links: whoever reads it while it is written sees that somebody is there."""
    try:
        with path.open("x") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _content(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _writer(path: Path, content: str) -> str | None:
    """Return who holds the lease ``content``; None when nobody does any more."""
    said = _parsed(content)
    if said.get("machine") == _machine():
        alive = said.get("started") == _started(said.get("pid", 0)) is not None
    else:  # also a file whose writer has not come to write yet
        alive = _age(path) < PATIENCE_SECONDS
    return _told(content) if alive else None


def _told(content: str) -> str:
    said = _parsed(content)
    if not said:
        return "a process that has not said who it is"
    return f"process {said.get('pid')} on {said.get('host')} since {said.get('since')}"


def _parsed(content: str) -> dict[str, Any]:
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _take_away(path: Path, judged: str) -> bool:
    """Remove the lease that was judged dead; what somebody else has put in its place meanwhile is put back."""
    if is_remote(path):  # where nothing is renamed in one step: of two that do this at once, one ends with a beat
        if still_judged := _content(path) == judged:
            path.unlink(missing_ok=True)
        return still_judged
    aside = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    found = _content(aside)
    if found != judged and found is not None:
        _create(path, found)
    aside.unlink(missing_ok=True)
    return found == judged


def _age(path: Path) -> float:
    """Return seconds since ``path`` was touched, both ends by the clock of its file system."""
    probe = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        write_atomic(probe, b"")
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _identity() -> dict[str, Any]:
    now = datetime.datetime.now().astimezone()
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": now.isoformat(" ", "seconds"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


@functools.cache
def _machine() -> str:
    """Return what two processes share that see each other's numbers: host, its start, and the space of its numbers."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),  # noqa: PTH115 - what it points to is no path
    ):
        try:
            parts.append(read())
        except OSError:  # no Linux: the host alone
            continue
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Return when process ``pid`` began, in the words of its system; None when there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():  # no Linux: that it is there must do
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "there"
        return "there"
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _start_beating() -> None:
    global _beat
    if _beat is None or not _beat.is_alive():
        _beat = threading.Thread(target=_keep_beating, name="lease", daemon=True)
        _beat.start()


def _keep_beating() -> None:
    pause = threading.Event()
    while not pause.wait(BEAT_SECONDS):
        for path, ours in list(_held.items()):
            try:
                lost = _content(path) not in (ours, None)
                if not lost and is_remote(path):
                    write_atomic(path, ours)
                elif not lost:
                    os.utime(path)
            except OSError:  # a file system that is away for a moment: the next beat tells
                continue
            if lost and _held.get(path) == ours:
                sys.stderr.write(
                    f"error: '{path.parent}' was taken over by {_told(_content(path) or '')} while this process slept; "
                    "it ends here, nothing of it is lost\n"
                )
                sys.stderr.flush()
                os._exit(1)
