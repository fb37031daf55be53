"""Ten thousand spoilt inputs: is each one read, or refused with a sentence?

    python benchmarks/fuzz.py [--count 10000] [--kind K …] [--first 0] [--workers 2]
    python benchmarks/fuzz.py --kind K --seed N        # one of them again, with its traceback; its input stays

Each case is a valid small input (see fuzz_inputs.py) with one to three changes, drawn from (kind, seed) alone, read as
the commands read it in a process that may take 10 s and 2 GB more than it had. A row says how many cases of a kind were
read (accepted) and how many refused with a sentence of histogen's own; the rest are failures: any other exception (or a
refusal that is no sentence: a Python exception's name, several lines), a process that died, 10 s without an end, more
than 2 GB, a file written outside of the folder for output. Failures are listed below the table by their place in the
code, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from fuzz_inputs import KINDS, NoSentenceError, is_bare

from histogen.errors import HistogenError

SECONDS, GIGABYTES = 10.0, 2.0
STARTING_SECONDS = 300.0
OUTCOMES = ("accepted", "refused", "tracebacks", "crashes", "hangs", "over memory", "written outside")
OUT_OF_MEMORY = re.compile(r"Unable to allocate|[Cc]annot allocate|can't allocate|bad_alloc|MemoryError|out of memory")
WRITES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Result:
    """What became of one case."""

    kind: str
    seed: int
    outcome: str
    said: str = ""
    place: str = ""
    """Innermost line of histogen that was left by an exception which is not its own."""
    seconds: float = 0.0


class Watch:
    """Sees, while it is on, what this process writes anywhere but below ``allowed``."""

    def __init__(self) -> None:
        self.allowed, self.outside = tuple[Path, ...](), list[str]()
        self.on = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = any(sign in (mode or "") for sign in "wax+") or bool(
                flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            paths = (path,) if writes else ()
        elif event in WRITES:
            if event.startswith("os.") and event != "os.truncate" and arguments[-1] >= 0:
                return  # counted from an open folder, as shutil.rmtree does, which is seen itself
            paths = {"os.rename": arguments[:2], "os.link": arguments[1:2], "os.symlink": arguments[1:2]}.get(
                event, arguments[:1]
            )
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike) and not self._is_allowed(os.fsdecode(path)):
                self.outside.append(f"{event} {os.fsdecode(path)}")

    def _is_allowed(self, path: str) -> bool:
        whole = os.path.realpath(path)
        return whole == os.devnull or any(
            whole == str(folder) or whole.startswith(f"{folder}{os.sep}") for folder in self.allowed
        )


class Bench:
    """Makes, spoils and reads the cases of kinds in a folder of its own; the valid inputs of a kind are made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.inputs: dict[str, list[Path]] = {}

    def prepare(self, kind: str) -> None:
        """Write the valid inputs of a kind and read them all; what is loaded then is not laid to a case."""
        if kind in self.inputs:
            return
        valid = self.folder / "valid" / kind
        valid.mkdir(parents=True)
        self.inputs[kind] = KINDS[kind].build(valid)
        for path in self.inputs[kind]:
            KINDS[kind].read(path, self.fresh("out") / "out")

    def fresh(self, name: str) -> Path:
        """Return an empty folder of this name."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def spoil(self, kind: str, seed: int) -> Path:
        """Write the case and return its input."""
        draw = Random(f"{kind} {seed}")  # noqa: S311 - no secret
        source = draw.choice(self.inputs[kind])
        path = self.fresh("case") / source.name
        shutil.copytree(source, path) if source.is_dir() else shutil.copyfile(source, path)
        KINDS[kind].spoil(path, draw)
        self.fresh("out")
        return path

    def read(self, kind: str, seed: int, path: Path) -> Result:
        """Read a case and say what became of it."""
        start = time.monotonic()
        outcome, said, place = "accepted", "", ""
        try:
            KINDS[kind].read(path, self.folder / "out" / "out")
        except HistogenError as error:
            outcome, said = "refused", str(error)
            if OUT_OF_MEMORY.search(said):
                outcome = "over memory"
            elif is_bare(said):
                outcome, place = "tracebacks", innermost(error)
        except MemoryError as error:
            outcome, said, place = "over memory", repr(error), innermost(error)
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            outcome, said, place = "tracebacks", f"{type(error).__name__}: {error}", innermost(error)
            if OUT_OF_MEMORY.search(said):
                outcome = "over memory"
        return Result(kind, seed, outcome, said[:400], place, time.monotonic() - start)


def innermost(error: BaseException) -> str:
    """Return the innermost line of histogen in a traceback."""
    if isinstance(error, NoSentenceError):
        where = re.search(r"\(([\w.]+:\d+ in \w+)\)", str(error))
        return where[1] if where else str(error)[:60]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "histogen" in Path(f.filename).parts]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else "?"


def peak_bytes(*, reset: bool = False) -> int:
    """Return the most memory that this process has had since the last reset, or now has where it is reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def work(pipe: Connection, folder: Path) -> None:
    """Do what the pipe asks for, one (kind, seed) after the other; the process that is watched."""
    quiet()
    sys.dont_write_bytecode = True
    watch, bench, limits = Watch(), Bench(folder), resource.getrlimit(resource.RLIMIT_AS)
    os.chdir(bench.folder)
    while True:
        kind, seed = pipe.recv()
        resource.setrlimit(resource.RLIMIT_AS, limits)
        bench.prepare(kind)
        path = bench.spoil(kind, seed)
        gc.collect()
        before = peak_bytes(reset=True)
        limit = address_space() + int(GIGABYTES * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
        tempfile.tempdir = str(bench.fresh("temporary"))
        watch.allowed, watch.outside = (bench.folder / "out", Path(tempfile.tempdir)), []
        pipe.send("reading")
        watch.on = True
        result = bench.read(kind, seed, path)
        watch.on = False
        if result.outcome in ("accepted", "refused") and peak_bytes() - before > GIGABYTES * 2**30:
            result = Result(kind, seed, "over memory", f"{(peak_bytes() - before) / 2**30:.1f} GB")
        if watch.outside:
            result = Result(kind, seed, "written outside", watch.outside[0])
        pipe.send(result)


def address_space() -> int:
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def quiet() -> None:
    """Let nobody write on the terminal but the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)


class Worker:
    """A process that reads cases, and the clock that it is given."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number, self.lives = folder, number, 0
        self.task: tuple[str, int] | None = None
        self._start()

    def _start(self) -> None:
        self.lives += 1
        own = self.folder / f"{self.number}-{self.lives}"
        own.mkdir()
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, own), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: tuple[str, int]) -> None:
        """Hand over a case."""
        self.task, self.deadline, self.reading = task, time.monotonic() + STARTING_SECONDS, False
        self.pipe.send(task)

    def poll(self) -> Result | None:
        """Return the result of the case if there is one now; a process that died or hangs is started anew."""
        assert self.task is not None
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                if message != "reading":
                    return message
                self.reading, self.deadline = True, time.monotonic() + SECONDS
        except (EOFError, ConnectionResetError):
            self.process.join()
            return self._anew("crashes", f"the process ended with {self.process.exitcode}")
        if time.monotonic() > self.deadline:
            return self._anew("hangs", f"no end after {SECONDS:g} s" if self.reading else "no start")
        return None

    def _anew(self, outcome: str, said: str) -> Result:
        assert self.task is not None
        self.process.kill()
        self.process.join()
        self._start()
        return Result(*self.task, outcome, said, said, SECONDS)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def run_cases(tasks: list[tuple[str, int]], num_workers: int, folder: Path) -> Iterator[Result]:
    """Yield the results of cases as they come; a hang counts when it hangs a second time, in a fresh process."""
    waiting, again = tasks[::-1], set[tuple[str, int]]()
    workers = [Worker(folder, number) for number in range(num_workers)]
    try:
        while waiting or any(worker.task for worker in workers):
            for worker in workers:
                if worker.task is None and waiting:
                    worker.give(waiting.pop())
            wait([worker.pipe for worker in workers if worker.task], timeout=0.2)
            for worker in workers:
                result = worker.poll() if worker.task else None
                if result is None:
                    continue
                task, worker.task = worker.task, None
                if result.outcome == "hangs" and task not in again:
                    again.add(task)  # type: ignore[arg-type]
                    waiting.append(task)  # type: ignore[arg-type]
                else:
                    yield result
    finally:
        for worker in workers:
            worker.stop()


def table(results: list[Result], seconds: float) -> str:
    """Return the table and the failures as text."""
    counts = {kind: Counter(r.outcome for r in results if r.kind == kind) for kind in KINDS}
    rows = [(kind, [c.total(), *(c[outcome] for outcome in OUTCOMES)]) for kind, c in counts.items() if c]
    rows.append(("all", [sum(column) for column in zip(*(values for _, values in rows), strict=True)]))
    heads = ("mutations", *OUTCOMES)
    lines = ["| kind | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    lines += [f"| {kind} | " + " | ".join(f"{value:,}" for value in values) + " |" for kind, values in rows]
    slowest = max(results, key=lambda r: r.seconds)
    lines.append(f"\n{seconds:,.0f} s; the slowest case took {slowest.seconds:.1f} s ({slowest.kind} {slowest.seed})")
    failures: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        if result.outcome not in OUTCOMES[:2]:
            failures.setdefault((result.kind, result.outcome, result.place), []).append(result)
    for (kind, outcome, place), found in sorted(failures.items(), key=lambda item: -len(item[1])):
        seeds = " ".join(str(result.seed) for result in found[:5])
        lines.append(f"\n{kind}, {outcome}, {len(found)} times at {place} (--seed {seeds}):\n    {found[0].said}")
    return "\n".join(lines)


def reproduce(kind: str, seed: int, folder: Path) -> int:
    """Read one case in this process, without limits and with its traceback; leave its input where it is."""
    warnings.simplefilter("ignore")
    bench = Bench(folder)
    bench.prepare(kind)
    path = bench.spoil(kind, seed)
    print(f"the input is {path}", flush=True)
    try:
        KINDS[kind].read(path, bench.folder / "out" / "out")
    except HistogenError as error:
        print(f"refused: {error}")
        return 0
    print("accepted")
    return 0


def main() -> int:
    """Run the cases asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind; repeatable")
    parser.add_argument("--count", type=int, default=10_000, help="cases in all")
    parser.add_argument("--first", type=int, default=0, help="the first seed of each kind")
    parser.add_argument("--seed", type=int, help="this case of the one kind given, and nothing else")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    if arguments.seed is not None:
        if len(arguments.kind or ()) != 1:
            parser.error("--seed needs one --kind")
        return reproduce(arguments.kind[0], arguments.seed, folder)
    kinds = arguments.kind or list(KINDS)
    shares = {kind: KINDS[kind].share for kind in kinds}
    tasks = [
        (kind, arguments.first + number)
        for kind in kinds
        for number in range(round(arguments.count * shares[kind] / sum(shares.values())))
    ]
    start, results = time.monotonic(), list[Result]()
    try:
        for result in run_cases(tasks, arguments.workers, folder):
            results.append(result)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(results):,} of {len(tasks):,}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(results, time.monotonic() - start))
    return int(any(result.outcome not in OUTCOMES[:2] for result in results))


if __name__ == "__main__":
    sys.exit(main())
