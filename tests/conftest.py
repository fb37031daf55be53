"""Fixtures that many rooms use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Small matrices on a shared machine: OpenMP threads that spin for each other made some tests a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin every test, and what is made for it, with one torch thread: bytes of trainings depend on their number."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and tiles beside the project; a test that needs it is not run without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"not run: the real data are not beside the project ({folder.name} is missing)")
    return folder


@pytest.fixture(scope="session")
def launch() -> Callable[..., None]:
    """Run Python source with arguments in several processes that form a gloo group, as `torchrun` starts them."""

    def run(num_processes: int, source: str, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        world = {"WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        children = []
        for rank in range(num_processes):
            said = {key: str(value) for key, value in {**world, "RANK": rank, "LOCAL_RANK": rank}.items()}
            environment = {**os.environ, **said, "GLOO_SOCKET_IFNAME": "lo"}
            command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
            children.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        for child in children:
            _, errors = child.communicate(timeout=250)
            assert child.returncode == 0, errors[-2000:]

    return run
