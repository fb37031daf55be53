"""Where units run: in this process, on local Dask processes, or on a running Dask cluster. Dask lives here."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from histogen.compute.job_queue import queue_cluster
from histogen.config import BulkConfig
from histogen.errors import ComputeError, ConfigError

if TYPE_CHECKING:
    from distributed import Client, SpecCluster

A = TypeVar("A")
R = TypeVar("R")

CONNECT_SECONDS = 60
REFRESH_SECONDS = 5.0
LOST_SCHEDULER = "the connection to the Dask scheduler was lost; start it again and --resume"
QUIET = logging.CRITICAL
TRIES_ALONE = 2
"""Dask blames every unit that a dying worker held; each of them is tried again, so often, with nothing beside it."""
CHEAP_DASK = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.tick.limit": "30s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.low-level-log-length": 20,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.profile.enabled": False,
}
"""Dask's own monitors off or slow: idling, they took 3 % of a core here and 2 % in each worker (measured).

Its logs hold the last 1,000 messages with the units in them, 15 MB of units of 10 kB; 20 do.
"""


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a call whose workers kept dying, or whose scheduler went away."""

    reason: str
    worker_died: bool = False


class Executor(Protocol):
    """Runs ``function(argument)`` for each argument; yields ``(position, result or Lost)`` as they finish."""

    def map(self, function: Callable[[A], R], arguments: list[A]) -> Iterator[tuple[int, R | Lost]]:
        """Run all calls, with a bounded number of them submitted at any time."""


class InProcess:
    """One call after the other, here; or as many at a time as there are ``threads``."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def map(self, function: Callable[[A], R], arguments: list[A]) -> Iterator[tuple[int, R | Lost]]:
        """Run all calls; they start in order."""
        if self.threads == 1:
            for position, argument in enumerate(arguments):
                yield position, function(argument)
            return
        pool = ThreadPoolExecutor(self.threads)
        positions = {pool.submit(function, argument): at for at, argument in enumerate(arguments)}
        try:
            for future in as_completed(positions):
                yield positions[future], future.result()
        finally:  # interrupted: what has not started is not wanted any more, and what has is not waited for
            pool.shutdown(wait=False, cancel_futures=True)


class OnDask:
    """Calls on the workers of a Dask client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._limit, self._limit_from = 2, float("-inf")

    def map(self, function: Callable[[A], R], arguments: list[A]) -> Iterator[tuple[int, R | Lost]]:
        """Run all calls; those lost with a worker run again, each alone, so that the one to blame is known."""
        lost = []
        for position, outcome in self._stream(function, arguments):
            if isinstance(outcome, Lost) and outcome.worker_died:
                lost.append(position)
            else:
                yield position, outcome
        for position in lost:
            for _ in range(TRIES_ALONE):
                outcome = next(outcome for _, outcome in self._stream(function, [arguments[position]]))
                if not (isinstance(outcome, Lost) and outcome.worker_died):
                    break
            yield position, outcome

    def _stream(self, function: Callable[[A], R], arguments: list[A]) -> Iterator[tuple[int, R | Lost]]:
        """Run all calls; when the scheduler goes away, the rest of them is lost."""
        from distributed.client import ClosedClientError

        seen = set()
        try:
            for position, outcome in self._submit_all(function, arguments):
                seen.add(position)
                yield position, outcome
        except (RuntimeError, OSError, ClosedClientError):  # what a closed client raises
            rest = (position for position in range(len(arguments)) if position not in seen)
            yield from ((position, Lost(LOST_SCHEDULER)) for position in rest)

    def _submit_all(self, function: Callable[[A], R], arguments: list[A]) -> Iterator[tuple[int, R | Lost]]:
        """At most two calls per worker thread are submitted at any time, so that the scheduler stays small."""
        from distributed import as_completed as finished_on

        positions: dict[Any, int] = {}
        submitted = 0

        def submit() -> Any:
            nonlocal submitted
            future = self.client.submit(function, arguments[submitted], pure=False)
            positions[future.key] = submitted
            submitted += 1
            return future

        finished = finished_on([submit() for _ in range(min(self._bound(), len(arguments)))], loop=self.client.loop)
        for future in finished:
            yield positions.pop(future.key), _result(future)
            future.release()
            for _ in range(min(self._bound() - len(positions), len(arguments) - submitted)):
                finished.add(submit())

    def _bound(self) -> int:
        if time.monotonic() - self._limit_from > REFRESH_SECONDS:  # workers come and go; asking costs a round trip
            with suppress(AttributeError):  # Dask has no scheduler to ask while it looks for a lost one
                self._limit = 2 * max(1, sum(self.client.nthreads().values()))
            self._limit_from = time.monotonic()
        return self._limit


def _result(future: Any) -> Any:
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        return Lost("its worker process died each time that it was tried (out of memory?)", worker_died=True)
    except CancelledError:
        return Lost(LOST_SCHEDULER)


@dataclass(frozen=True)
class Compute:
    """Where a bulk stage runs; the same units give the same files everywhere.

    ``workers`` local processes of ``threads`` each, or the workers of ``scheduler``, or the jobs of the queue that the
    file ``cluster`` describes, or (none of them) this process, with ``threads`` too. Local workers take one CUDA device
    each, in turn; those of a running scheduler keep what they were started with. ``report`` is a folder for Dask's
    performance reports.
    """

    workers: int = 0
    scheduler: str | None = None
    device: str = "auto"
    threads: int = 1
    cluster: Path | None = None
    report: Path | None = None

    @classmethod
    def from_config(cls, config: BulkConfig, *, threads: int = 1) -> Compute:
        """Take what a bulk command's config says; ``threads`` is how many units a process works on at once.

        Raises:
            ConfigError: more than one of local workers, a scheduler and a cluster is asked for, or a report of none.
        """
        given = [f"--{key}" for key in ("workers", "scheduler", "cluster") if getattr(config, key)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} were both given; each brings its own workers: give one")
        if config.dask_report and not given:
            raise ConfigError("--dask-report was given, but Dask runs nothing here; add --workers, say")
        return cls(config.workers, config.scheduler, config.device, threads, config.cluster, config.dask_report)

    @contextmanager
    def open_(self) -> Iterator[Executor]:
        """Start or connect what is needed, and stop what was started.

        Raises:
            ConfigError: the scheduler does not answer, or the file of the cluster cannot be used.
            ComputeError: workers cannot be started.
        """
        if not (self.workers or self.scheduler or self.cluster):
            yield InProcess(self.threads)
            return
        with _quiet_dask(observed=self.report is not None), self._connected() as client, _reported(client, self.report):
            yield OnDask(client)

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        if self.scheduler:
            with _client_of(self.scheduler) as client:
                yield client
            return
        started = queue_cluster(self.cluster) if self.cluster else self._local_cluster()
        with started as cluster, _client(cluster) as client:
            yield client

    @contextmanager
    def _local_cluster(self) -> Iterator[SpecCluster]:
        """Start worker processes on this machine; they end with it, or when this process dies in any way."""
        from distributed import Nanny, Scheduler, SpecCluster

        common = {
            "nthreads": self.threads,
            "host": "127.0.0.1",
            "protocol": "tcp://",
            "memory_limit": 0,
            "dashboard": False,
        }
        specs = {
            number: {"cls": Nanny, "options": {**common, "silence_logs": QUIET, "env": environment}}
            for number, environment in enumerate(worker_environments(self.workers, self.device, num_gpus()))
        }
        head = {
            "host": "127.0.0.1",
            "protocol": "tcp://",
            "port": 0,
            "dashboard": self.report is not None,
            "dashboard_address": "127.0.0.1:0",
        }

        def start() -> SpecCluster:
            return SpecCluster(specs, scheduler={"cls": Scheduler, "options": head}, silence_logs=QUIET)

        try:
            with _deaf_children():
                try:
                    cluster = start()
                except (RuntimeError, OSError, TimeoutError):  # a worker may be killed while it starts, too
                    cluster = start()
        except (RuntimeError, OSError, TimeoutError) as error:
            raise ComputeError(
                f"{self.workers} local Dask workers did not start ({error}); try again, or fewer --workers"
            ) from error
        with cluster:
            yield cluster


class Kept:
    """A :class:`Compute` that starts at its first use and serves several shard maps; its workers start once."""

    def __init__(self, compute: Compute, stack: ExitStack) -> None:
        self._compute, self._stack = compute, stack
        self._executor: Executor | None = None

    @contextmanager
    def open_(self) -> Iterator[Executor]:
        """Start or connect what is needed; it stops when the stack is left.

        Raises:
            ConfigError: the scheduler does not answer.
        """
        if self._executor is None:
            self._executor = self._stack.enter_context(self._compute.open_())
        yield self._executor


def _client(address: Any) -> Client:
    from distributed import Client

    return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)


@contextmanager
def _client_of(address: str) -> Iterator[Client]:
    try:
        client = _client(address)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at '{address}' ({error}); check --scheduler") from error
    with client:
        yield client


@contextmanager
def _reported(client: Client, folder: Path | None) -> Iterator[None]:
    """Say where Dask's dashboard is, and leave its performance report in ``folder``, for whoever asks for them."""
    if folder is None:
        yield
        return
    from distributed import performance_report

    print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)  # noqa: T201
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"dask-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.html"
    with client.as_current(), performance_report(filename=str(file)):
        yield
    print(f"Dask's performance report: {file}", file=sys.stderr)  # noqa: T201


@contextmanager
def _quiet_dask(*, observed: bool) -> Iterator[None]:
    """Let Dask report errors only, and leave the environment of this process as it was.

    Its own monitors are slowed down unless the run is ``observed``.
    """
    import dask
    import distributed  # noqa: F401 - first, or leaving dask.config.set would take distributed's settings away

    environment = dict(os.environ)
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.logging": {"distributed": "critical"},
        # distributed sets OMP_NUM_THREADS=1 in *this* process too, which would slow a later stage down
        "distributed.nanny.pre-spawn-environ": {},
        **({} if observed else CHEAP_DASK),
    }
    names = ("distributed", "distributed.nanny", "distributed.scheduler", "asyncio", "tornado.application")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        with dask.config.set(settings):
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to them too: their parent ends them, in silence."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def worker_environments(workers: int, device: str, gpus: int) -> list[dict[str, str]]:
    """Return the environment of each local worker: its share of the cores, and one CUDA device where there are any.

    Raises:
        ConfigError: CUDA is asked for and the machine has no device.
    """
    if device == "cuda" and not gpus:
        raise ConfigError("--device cuda was given but no CUDA device is there; use --device cpu")
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    share = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    if device == "cpu" or not gpus:
        return [dict(share) for _ in range(workers)]
    visible = _visible_devices(gpus)
    return [{**share, "CUDA_VISIBLE_DEVICES": visible[number % len(visible)]} for number in range(workers)]


def num_gpus() -> int:
    """Return the number of CUDA devices this process may use, without loading CUDA."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return len([name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)  # noqa: S603
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def _visible_devices(gpus: int) -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(gpus)]
