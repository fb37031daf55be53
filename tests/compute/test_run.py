"""The shard map: the same on one process and on Dask; failures, deaths and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from histogen.compute.client import Compute, Kept, OnDask, worker_environments
from histogen.compute.run import UnitFailure, _guarded, run_units, versions
from histogen.config import BulkConfig
from histogen.errors import ConfigError, SlideError

MEETING = threading.Barrier(2)
HERE = str(Path(__file__).resolve().parent)


@dataclass(frozen=True)
class Number:
    value: int
    folder: str = ""

    @property
    def key(self) -> str:
        return f"n{self.value}"

    @property
    def num_items(self) -> int:
        return 10


def square(unit: Number, *, bias: int = 0) -> dict[str, int]:
    if unit.value == 3:
        raise SlideError("slide '3' is empty; delete it")
    if unit.value == 4:
        raise ZeroDivisionError("oh")
    return {"square": unit.value**2 + bias, "pid": os.getpid()}


def die_once(unit: Number) -> dict[str, bool]:
    """Kill this worker process the first time that unit 1 is tried."""
    mark = Path(unit.folder) / "tried"
    if unit.value == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"tried_before": mark.exists()}


def meet(unit: Number) -> dict[str, bool]:
    return {"first": MEETING.wait(timeout=20) == 0}


@dataclass
class InterruptingBar:
    """A progress bar during which the user presses Ctrl-C as soon as it moves."""

    advance: Callable[[int], None]

    def __enter__(self) -> InterruptingBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def report_environment(unit: Number) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")}


@pytest.fixture
def _importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes must find this module by its name."""
    monkeypatch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
    monkeypatch.syspath_prepend(HERE)


def here() -> object:
    """Return this module under the name that a worker process imports."""
    import importlib

    return importlib.import_module("test_run")


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 3), (2, 1), (1, 2)])
@pytest.mark.usefixtures("_importable_by_workers")
def test_results_come_in_order_and_failures_are_sentences(workers: int, threads: int) -> None:
    units = [here().Number(n) for n in range(9)]
    compute = Compute(workers, threads=threads)
    report = run_units(partial(here().square, bias=1), units, compute=compute, description="squares")
    assert [(key, result["square"]) for key, result in report.results] == [
        (f"n{n}", n * n + 1) for n in range(9) if n not in (3, 4)
    ]
    assert [f.key for f in report.failures] == ["n3", "n4"]
    assert str(report.failures[0]) == "n3: slide '3' is empty; delete it"
    assert report.failures[1].sentence.startswith("ZeroDivisionError: oh (test_run.py:")
    assert (report.done, report.items) == (7, 70)
    pids = {result["pid"] for _, result in report.results}
    assert (os.getpid() in pids) == (workers == 0)
    assert "OMP_NUM_THREADS" not in os.environ or workers == 0 or os.environ["OMP_NUM_THREADS"] != "unset"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("_importable_by_workers")
def test_threads_work_at_the_same_time(workers: int) -> None:
    """Two units that wait for each other end, in a process of two threads."""
    units = [here().Number(n) for n in range(2)]
    report = run_units(here().meet, units, compute=Compute(workers, threads=2), description="meeting")
    assert report.failures == ()
    assert {result["first"] for _, result in report.results} == {True, False}


def test_an_interrupt_leaves_what_has_not_started_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first result is taken while two more units run; seventeen are never begun."""
    begun: list[int] = []

    def work(unit: Number) -> dict[str, int]:
        begun.append(unit.value)
        time.sleep(0 if unit.value == 0 else 1.5)
        return {}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("histogen.compute.run.progress_bar", lambda *_, **__: InterruptingBar(interrupt))
    with pytest.raises(KeyboardInterrupt):
        run_units(work, [Number(n) for n in range(20)], compute=Compute(threads=2), description="interrupted")
    assert sorted(begun) == list(range(len(begun)))
    assert len(begun) <= 4


@pytest.mark.usefixtures("_importable_by_workers")
def test_the_unit_of_a_killed_worker_is_tried_again(tmp_path: Path) -> None:
    units = [here().Number(n, str(tmp_path)) for n in range(4)]
    report = run_units(here().die_once, units, compute=Compute(2), description="deaths")
    assert not report.failures
    assert report.done == 4
    assert (tmp_path / "tried").exists()


@pytest.mark.usefixtures("_importable_by_workers")
def test_the_environment_of_this_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    report = run_units(
        here().report_environment, [here().Number(0)], compute=Compute(1, device="cpu"), description="env"
    )
    assert report.results[0][1]["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert report.results[0][1]["MALLOC_TRIM_THRESHOLD_"] is None  # Dask's own costs a quarter of a worker's time
    assert dict(os.environ) == before


def test_each_local_worker_takes_one_gpu_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pinned = worker_environments(3, "auto", 2)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in pinned] == ["0", "1", "0"]
    assert all("CUDA_VISIBLE_DEVICES" not in environment for environment in worker_environments(2, "cpu", 2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in worker_environments(2, "cuda", 2)] == ["5", "7"]
    with pytest.raises(ConfigError, match="no CUDA device is there"):
        worker_environments(2, "cuda", 0)


def test_nothing_to_do_starts_nothing() -> None:
    report = run_units(square, [], compute=Compute(2), description="nothing", items_done=5)
    assert (report.done, report.failures, report.results) == (0, (), ())


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histogen.compute.client.CONNECT_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        run_units(square, [Number(1)], compute=Compute(scheduler="tcp://127.0.0.1:9"), description="nobody")


def test_a_worker_without_the_callers_folder_is_a_sentence(tmp_path: Path) -> None:
    outcome = _guarded(square, tmp_path / "not mounted", versions(), Number(1))
    assert isinstance(outcome, UnitFailure)
    assert "cannot enter" in outcome.sentence
    assert "same folders are mounted" in outcome.sentence


def test_workers_and_scheduler_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both given"):
        Compute.from_config(BulkConfig(out=tmp_path, workers=1, scheduler="tcp://a:1"))


def folder_of(unit: Number) -> dict[str, str]:
    return {"folder": str(Path.cwd())}


@pytest.mark.usefixtures("_importable_by_workers")
def test_the_same_units_run_on_a_running_scheduler_in_the_callers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    with LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0) as cluster:
        compute = Compute(scheduler=cluster.scheduler_address)
        report = run_units(here().square, [here().Number(n) for n in range(12)], compute=compute, description="remote")
        monkeypatch.chdir(tmp_path)
        folders = run_units(here().folder_of, [here().Number(0)], compute=compute, description="folder")
        assert folders.results == (("n0", {"folder": str(tmp_path)}),)
    assert report.done == 10
    assert os.getpid() not in {result["pid"] for _, result in report.results}


SLEEPER = """
import sys, time, os
sys.path.insert(0, {here!r})
import test_run
from histogen.compute.client import Compute
from histogen.compute.run import run_units
if __name__ == "__main__":
    units = [test_run.Number(n, {folder!r}) for n in range(4)]
    run_units(test_run.sleep_long, units, compute=Compute(2), description="sleep")
"""


def sleep_long(unit: Number) -> None:
    (Path(unit.folder) / f"{os.getpid()}.pid").touch()
    time.sleep(60)


def test_a_killed_client_leaves_no_workers_behind(tmp_path: Path) -> None:
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER.format(here=HERE, folder=str(tmp_path)))
    client = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": HERE})
    try:
        _wait_until(lambda: len(list(tmp_path.glob("*.pid"))) >= 2)
        pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert client.pid not in pids
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    _wait_until(lambda: not any(_alive(pid) for pid in pids))


def _wait_until(condition: object, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def starting_workers() -> list[int]:
    """Return the children of this process that multiprocessing spawned as workers (Linux)."""
    pids = [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.usefixtures("_importable_by_workers")
def test_a_worker_killed_while_it_starts_does_not_end_the_run() -> None:
    def kill_first() -> None:
        _wait_until(starting_workers)
        os.kill(starting_workers()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_first)
    killer.start()
    report = run_units(here().square, [here().Number(n) for n in range(2)], compute=Compute(2), description="start")
    killer.join()
    assert report.done == 2


@pytest.mark.usefixtures("_importable_by_workers")
def test_kept_workers_serve_several_maps() -> None:
    pids = []
    with ExitStack() as stack:
        compute = Kept(Compute(1), stack)
        for n in range(2):
            report = run_units(here().square, [here().Number(n)], compute=compute, description="kept")
            pids.append(report.results[0][1]["pid"])
    assert pids[0] == pids[1] != os.getpid()
    _wait_until(lambda: not _alive(pids[0]))


class GoneClient:
    """What is left of a client whose scheduler went away: closed, or looking for it still."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def nthreads(self) -> dict[str, int]:
        raise self.error

    def submit(self, *_: object, **__: object) -> None:
        from distributed.client import ClosedClientError

        raise ClosedClientError("Client is closed. Can't send update-graph message.")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("ConnectionPool is closed"),
        AttributeError("'NoneType' object has no attribute 'ncores'"),
        OSError("timed out"),
    ],
)
def test_when_the_scheduler_goes_away_every_unit_that_is_left_is_a_sentence(error: Exception) -> None:
    outcomes = list(OnDask(GoneClient(error)).map(square, [Number(n) for n in range(3)]))
    assert [position for position, _ in outcomes] == [0, 1, 2]
    assert all("connection to the Dask scheduler was lost" in outcome.reason for _, outcome in outcomes)
