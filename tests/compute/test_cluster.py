"""Dask as it is run: a scheduler and workers of their own, that join, leave and die; and jobs of a queue."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import cv2
import dask
import distributed  # noqa: F401 - it brings dask.config its settings
import numpy as np
import pytest

from histogen.compute import client
from histogen.compute.client import Compute
from histogen.compute.job_queue import queue_cluster
from histogen.compute.run import MapReport, run_units
from histogen.config import BulkConfig
from histogen.errors import ConfigError
from histogen.files import read_json

HERE = Path(__file__).resolve().parent
PYTHON = sys.executable


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(HERE))


def units_of(folder: Path, count: int) -> list[Any]:
    import units

    return [units.Number(n, str(folder)) for n in range(count)]


def work(name: str) -> Callable[..., Any]:
    import units

    found: Callable[..., Any] = getattr(units, name)
    return found


class Cluster:
    """``dask scheduler`` and ``dask worker``, started as their users do."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self.start("scheduler", *arguments, **environment)
        wait_until(lambda: self.file.is_file() and self.file.stat().st_size > 0)
        self.address = str(read_json(self.file)["address"])

    def start(self, what: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [PYTHON, "-m", "dask", what, "--scheduler-file", str(self.file), *arguments]
        with (self.folder / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
            )
        self.processes.append(process)
        return process

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--nthreads", "1", "--no-dashboard", *arguments, **environment)

    def map(self, name: str, units: list[Any]) -> MapReport:
        return run_units(work(name), units, compute=Compute(scheduler=self.address), description=name)

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a nanny's worker too
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def tries(folder: Path, number: int | str = "*") -> list[str]:
    """Return the processes that began a unit, one for each try."""
    return [line for file in sorted(folder.glob(f"{number}.tries")) for line in file.read_text().split()]


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def squares(report: MapReport) -> list[int]:
    return [result["square"] for _, result in report.results]


def test_workers_join_and_leave_while_units_run(cluster: Cluster, tmp_path: Path) -> None:
    first = cluster.worker()

    def join_and_leave() -> None:
        wait_until(lambda: len(tries(tmp_path)) >= 3)
        cluster.worker()
        wait_until(lambda: len(set(tries(tmp_path))) == 2)
        first.terminate()  # leaves as `scancel` or a preempted node does

    changes = meanwhile(join_and_leave)
    report = cluster.map("wait", units_of(tmp_path, 30))
    changes.join()
    assert not report.failures
    assert squares(report) == [n**2 for n in range(30)]
    assert len({result["pid"] for _, result in report.results}) == 2


def test_a_worker_that_dies_ten_times_loses_no_unit(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker("--nanny")
    deaths: list[str] = []

    def kill_the_newest() -> None:
        while len(deaths) < 10:
            wait_until(lambda: set(tries(tmp_path)) - set(deaths))
            (pid,) = set(tries(tmp_path)) - set(deaths)
            os.kill(int(pid), signal.SIGKILL)
            deaths.append(pid)

    killer = meanwhile(kill_the_newest)
    report = cluster.map("wait", units_of(tmp_path, 14))
    killer.join()
    assert len(set(deaths)) == 10
    assert not report.failures, report.failures
    assert squares(report) == [n**2 for n in range(14)]


def test_a_unit_that_kills_its_worker_is_set_aside_after_three_tries(tmp_path: Path) -> None:
    report = run_units(work("kill"), units_of(tmp_path, 6), compute=Compute(2), description="kill")
    assert [(failure.key, "died each time" in failure.sentence) for failure in report.failures] == [("n1", True)]
    assert report.done == 5
    assert len(tries(tmp_path, 1)) == 3


def test_a_worker_beyond_its_memory_is_set_aside_and_large_results_are_spilled(tmp_path: Path) -> None:
    with closing(Cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")) as cluster:
        cluster.worker("--nanny", "--memory-limit", "500MiB", "--local-directory", str(tmp_path))
        report = cluster.map("fill", units_of(tmp_path, 4))
        spilled = cluster.map("large", units_of(tmp_path, 14))  # more than the worker may hold
    assert [failure.key for failure in report.failures] == ["n1"]
    assert "out of memory?" in report.failures[0].sentence
    assert [result["bytes"] for _, result in report.results] == [16 << 20] * 3
    assert [(key, len(result["data"]), result["data"][-1]) for key, result in spilled.results] == [
        (f"n{n}", 40 << 20, n) for n in range(14)
    ]


def test_a_scheduler_that_dies_ends_the_run_with_a_sentence_for_what_is_left(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_SECONDS", 5)  # how long a client waits for it to come back
    cluster.worker()

    def kill_scheduler() -> None:
        wait_until(lambda: len(tries(tmp_path)) >= 4)
        cluster.scheduler.kill()

    killer = meanwhile(kill_scheduler)
    report = cluster.map("wait", units_of(tmp_path, 200))
    killer.join()
    assert 2 <= report.done < 200
    assert report.done + len(report.failures) == 200
    assert {failure.sentence for failure in report.failures} == {
        "the connection to the Dask scheduler was lost; start it again and --resume"
    }


def test_a_worker_with_other_versions_makes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow"
    (shadow / "numpy-1.0.dist-info").mkdir(parents=True)
    (shadow / "numpy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    cluster.worker(PYTHONPATH=f"{shadow}{os.pathsep}{os.environ['PYTHONPATH']}")
    report = cluster.map("wait", units_of(tmp_path, 2))
    assert report.done == 0
    assert all(
        re.search(r"has numpy 1\.0, not \d.*start workers in the same environment", failure.sentence)
        for failure in report.failures
    )
    assert tries(tmp_path) == []


def test_a_performance_report_is_left_and_the_dashboard_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute = Compute(1, report=tmp_path / "reports")
    run_units(work("wait"), units_of(tmp_path, 3), compute=compute, description="wait")
    (file,) = (tmp_path / "reports").iterdir()
    said = capsys.readouterr().err
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/status", said)
    assert str(file) in said
    report = file.read_text()
    assert "Dask Performance Report" in report
    assert "compute time" in report


def test_only_one_place_is_asked_for_and_only_dask_reports(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--workers and --cluster were both given"):
        Compute.from_config(BulkConfig(out=tmp_path, workers=1, cluster=tmp_path / "slurm.yaml"))
    with pytest.raises(ConfigError, match="--dask-report was given, but Dask runs nothing"):
        Compute.from_config(BulkConfig(out=tmp_path, dask_report=tmp_path))


# jobs of a queue

SBATCH = """#!/bin/sh
# As SLURM does: keep the script, run it elsewhere, say its number.
number=$(($(ls "$FAKE_SLURM" | grep -c '\\.job$') + 1))
cp "$1" "$FAKE_SLURM/$number.job"
setsid sh "$FAKE_SLURM/$number.job" >"$FAKE_SLURM/$number.log" 2>&1 &
echo $! >"$FAKE_SLURM/$number.pid"
echo "Submitted batch job $number"
"""
SCANCEL = """#!/bin/sh
echo cancelled >"$FAKE_SLURM/$1.cancelled"
kill -TERM -- -$(cat "$FAKE_SLURM/$1.pid") 2>/dev/null
"""
QUEUE = """
system: slurm
jobs: {jobs}
job:
  cores: 1
  processes: 1
  memory: 1 GB
  queue: gpu
  walltime: "00:10:00"
  scheduler_options: {{host: 127.0.0.1, dashboard_address: "127.0.0.1:0"}}
"""


def command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which a queue that looks like SLURM keeps its jobs."""
    folder = tmp_path / "slurm"
    (folder / "bin").mkdir(parents=True)
    command(folder / "bin" / "sbatch", SBATCH)
    command(folder / "bin" / "scancel", SCANCEL)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def import_images(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Draw two classes of three images, and import them by the command line."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
            cv2.imwrite(str(folder / "images" / name / f"{number}.png"), pixels)
    command = [PYTHON, "-m", "histogen", "import-images", str(folder / "images"), "--set", "tile_px=32", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_command_runs_in_jobs_of_a_queue_to_the_same_bytes(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "queue.yaml").write_text(QUEUE.format(jobs=1))
    for out, more in (("here", []), ("there", ["--cluster", str(tmp_path / "queue.yaml")])):
        done = import_images(tmp_path, "--out", str(tmp_path / out), *more)
        assert done.returncode == 0, done.stderr
    script = (slurm / "1.job").read_text()
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH -t 00:10:00" in script
    assert (slurm / "1.cancelled").exists()
    here, there = (
        {
            str(file.relative_to(tmp_path / out)): file.read_bytes()
            for file in sorted((tmp_path / out).rglob("c/**/*"))
            if file.is_file()
        }
        for out in ("here", "there")
    )
    assert here == there
    assert len(here) >= 2


def test_a_job_that_ends_is_submitted_again(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.yaml").write_text(QUEUE.format(jobs=1))

    def preempt() -> None:
        wait_until(lambda: len(tries(tmp_path)) >= 2)
        os.killpg(int((slurm / "1.pid").read_text()), signal.SIGKILL)

    killer = meanwhile(preempt)
    compute = Compute(cluster=tmp_path / "queue.yaml")
    monkeypatch.setitem(dask.config.get("distributed.deploy"), "lost-worker-timeout", "1s")
    report = run_units(work("wait"), units_of(tmp_path, 12), compute=compute, description="wait")
    killer.join()
    assert not report.failures, report.failures
    assert squares(report) == [n**2 for n in range(12)]
    assert (slurm / "2.job").exists()


def test_what_a_queue_refuses_is_one_sentence(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "queue.yaml"
    file.write_text(QUEUE.format(jobs=1))
    command(slurm / "bin" / "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition: gpu' >&2\nexit 1\n")
    refused = import_images(tmp_path, "--out", str(tmp_path / "out"), "--cluster", str(file))
    assert refused.returncode == 1
    assert re.search(r"error: slurm refuses a job of .*invalid partition: gpu", refused.stderr)
    assert "Traceback" not in refused.stderr
    file.write_text(QUEUE.format(jobs=1).replace("queue:", "partition_:"))
    with pytest.raises(ConfigError, match="dask-jobqueue refuses 'job' .*partition_"), queue_cluster(file):
        pass
    file.write_text(QUEUE.format(jobs=0))
    with pytest.raises(ConfigError, match="jobs"), queue_cluster(file):
        pass
    file.write_text(QUEUE.format(jobs=1))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="'sbatch' is not here"), queue_cluster(file):
        pass
