"""Tile stores on object storage: a local S3 server, real commands, the bytes of local ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

SECRET = "wJalrXUtnFEMI-never-written"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """Serve S3 on a free port of this machine, to this process and those that it starts."""
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.get_host_and_port()[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    started.stop()


def histogen(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "histogen", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )


def done(*arguments: Any) -> str:
    process = histogen(*arguments)
    assert process.returncode == 0, process.stderr
    assert SECRET not in process.stdout + process.stderr
    return process.stdout + process.stderr
