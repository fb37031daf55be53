"""Long and large runs: does memory stay flat, do files and handles stay few, does planning stay quick?

    python benchmarks/load.py [cohort] [slide] [plan] [soak] [--slides 2000] [--cycles 200] [--folder DIR]

cohort  ``histogen tile`` of many small slides on two workers: the most memory of each process so far, on the way
slide   ``histogen tile`` of one slide of 100,000 x 80,000 px on two workers
plan    ten million tiles: of one slide (overlapping), of 80 slides, and of a run of 1,000 stores that is resumed
soak    ``histogen pretrain --resume``, stopped and gone on with again and again, in one process and by SIGKILL
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine
from huge_slide import build

from histogen.geometry import Extent
from histogen.slides.drawn import draw_slide

HUGE = Extent(100_000, 80_000)
DISTINCT = 50
PLAN = ("--tile-px", "224", "--mpp", "native")


def row(*cells: object) -> None:
    """Print a line of a table of Markdown."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def memory_mb(pid: int | str, what: str = "VmHWM") -> int:
    """Return the most memory that a process has had (``VmRSS``: has), MB; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    return round(int(found[1]) * 1024 / 1e6) if found else 0


def workers_of(pid: int) -> list[int]:
    """Return the children of ``pid`` that work (not the one that counts shared resources)."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (thread / "children").read_text().split()]
        return sorted({child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()})
    except OSError:
        return []


def watched(arguments: list[str], look: Callable[[int], None]) -> tuple[float, int, int]:
    """Run a command of histogen, calling ``look(pid)`` all the while; seconds, most MB of it and of any worker."""
    start, client, worker = time.perf_counter(), 0, 0
    with subprocess.Popen([sys.executable, "-m", "histogen", *arguments], stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            client = max(client, memory_mb(child.pid))
            worker = max([worker, *map(memory_mb, workers_of(child.pid))])
            look(child.pid)
            time.sleep(0.1)
    if child.returncode:
        raise RuntimeError(f"histogen {' '.join(arguments)} ended with {child.returncode}")
    return time.perf_counter() - start, client, worker


def cohort(folder: Path, num_slides: int) -> None:
    """Tile many small slides; the memory of every process when so many of them are planned, and cut."""
    slides, out = folder / "slides", folder / "tiles"
    for number in range(DISTINCT):
        path = folder / "drawn" / f"{number}.svs"
        draw_slide(path, seed=number, extent=Extent(768, 640), mpp=0.5, region_um=100, pen=False, blur=False)
    slides.mkdir()
    for number in range(num_slides):
        os.link(folder / "drawn" / f"{number % DISTINCT}.svs", slides / f"slide-{number:05d}.svs")
    marks = [num_slides // 10, num_slides // 2, num_slides]
    seen: dict[tuple[str, int], tuple[int, list[int]]] = {}

    def look(pid: int) -> None:
        ids = [f"slide-{number - 1:05d}" for number in marks]  # units are handed out in order
        for mark, slide in zip(marks, ids, strict=True):
            for stage, file in (("planned", "zarr.json"), ("cut", "ledger/tiles/0.json")):
                if (stage, mark) not in seen and (out / f"{slide}.zarr" / file).exists():
                    seen[stage, mark] = memory_mb(pid), [memory_mb(worker) for worker in workers_of(pid)]

    seconds, client, _ = watched(["tile", str(slides), "--out", str(out), "--tile-px", "128", "--workers", "2"], look)
    row("slides done", "most MB of the command", "of each worker")
    for (stage, mark), (command, workers) in sorted(seen.items(), key=lambda item: (item[0][0] == "cut", item[0][1])):
        row(f"{mark:,} {stage}", command, ", ".join(map(str, workers)))
    row("all, with report", client, f"{seconds:.0f} s")


def slide(folder: Path) -> None:
    """Tile all of one huge slide."""
    path = build(folder / "huge.svs", HUGE)
    out = folder / "tiles"
    seconds, client, worker = watched(["tile", str(path), "--out", str(out), *PLAN, "--workers", "2"], lambda _: None)
    tiles = 1024 * len(list(out.glob("*.zarr/ledger/tiles/*.json")))
    row("one slide", "about tiles", "seconds", "most MB of the command", "of a worker")
    row(
        f"{HUGE.width:,} x {HUGE.height:,} px, {path.stat().st_size / 1e6:.1f} MB",
        f"{tiles:,}",
        f"{seconds:.0f}",
        client,
        worker,
    )


PLAN_SOURCE = """
import sys
from contextlib import ExitStack
from pathlib import Path
from histogen.compute.client import Compute, Kept
from histogen.compute.run import run_units
from histogen.pipelines.tile import command
slides, out, stride, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
config = command.TileConfig(slides=[slides], out=out, tile_px=224, mpp="native", stride_px=stride, workers=workers)
sources = command.find_slides(config.slides).slides
prints = {source.slide_id: command._fingerprint(source) for source in sources}
units = command._plan_units(config, sources, prints)
report = run_units(command.plan, units, compute=Compute.from_config(config), description="plan", item_name="slides")
assert not report.failures, report.failures
shards, done = command._shard_units(config, sources)
print(sum(unit.num_items for unit in shards))
"""


def plan(folder: Path) -> None:
    """Plan ten million tiles: grid, tissue, stores with their columns, and the list of shards to cut."""
    row("ten million tiles", "tiles", "seconds", "CPU-s", "most MB of a process")
    huge = build(folder / "huge.svs", HUGE)
    many = folder / "many"
    many.mkdir()
    for number in range(80):
        os.link(huge, many / f"slide-{number:02d}.svs")
    for name, slides, stride, workers in (("of one slide", huge, 25, 0), ("of 80 slides, two workers", many, 224, 2)):
        start, most, before = time.perf_counter(), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", PLAN_SOURCE, str(slides), str(folder / name), str(stride), str(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            while child.poll() is None:
                most = max([most, memory_mb(child.pid), *map(memory_mb, workers_of(child.pid))])
                time.sleep(0.05)
            tiles = int(child.stdout.read())  # type: ignore[union-attr]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        row(name, f"{tiles:,}", f"{time.perf_counter() - start:.1f}", f"{cpu:.1f}", most)
    resume = [sys.executable, "resume_plan.py", "--stores", "1000", "--tiles-per-store", "10000"]
    subprocess.run(resume, check=True, cwd=Path(__file__).parent, env=_with_us())


def _with_us() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }


class _StoppedError(Exception):
    """Stands for whatever ends a run from within."""


def soak(folder: Path, cycles: int) -> None:
    """Stop and resume a training; files of the run, open handles and memory after each time."""
    import kill_pretrain
    import torch

    from histogen.pipelines.pretrain import command as pretrain
    from histogen.ssl.task import DinoTask

    torch.set_num_threads(1)
    kill_pretrain.write_stores(folder)
    case = kill_pretrain.Case("DINO", threads=0, processes=1)

    def settings(out: Path) -> dict[str, Any]:
        said = case.settings(folder, out)
        return {**said, "optim": {**said["optim"], "num_steps": 2 * cycles}, "checkpoint_every": 1, "log_every": 1}

    row("stopped and resumed", "files in the run folder", "open handles", "MB")
    forked, rng = folder / "killed" / "run", random.Random(0)
    files = set()
    start = time.perf_counter()
    for cycle in range(cycles):
        kill_pretrain.Run(settings(forked), 1).kill(min(2 * cycle + 1, 2 * cycles - 2), rng)
        files.add(_num_files(forked))
    row(f"{cycles} times by SIGKILL ({time.perf_counter() - start:.0f} s)", f"{min(files)} to {max(files)}", "", "")
    out, inner, left = folder / "within" / "run", DinoTask.step, 0

    def step(self: DinoTask, number: int) -> dict[str, float]:
        nonlocal left
        left -= 1
        if left < 0:
            raise _StoppedError
        return inner(self, number)

    DinoTask.step = step  # type: ignore[method-assign]
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    seen = []
    start = time.perf_counter()
    for cycle in range(cycles):
        left = 2
        try:
            pretrain.run(pretrain.PretrainConfig.model_validate(settings(out)))
        except _StoppedError:
            assert cycle < cycles - 1 or left < 0
        seen.append((_num_files(out), len(list(Path("/proc/self/fd").iterdir())), memory_mb("self", "VmRSS")))
    for at in sorted({1, cycles // 10, cycles // 4, cycles // 2, 3 * cycles // 4, cycles - 1}):
        row(f"{at} times in one process", *seen[at - 1])
    row(f"{cycles}, finished ({time.perf_counter() - start:.0f} s)", *seen[-1])
    middle = seen[len(seen) // 4 :]
    assert max(files) - min(files) <= 3, files  # half a checkpoint, and one that is not noted yet
    assert len({files for files, _, _ in middle[:-1]}) == 1, middle
    assert len({handles for _, handles, _ in middle}) == 1, middle


def _num_files(out: Path) -> int:
    return sum(path.is_file() for path in out.rglob("*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds: dict[str, Callable[[Path], None]] = {
        "cohort": lambda folder: cohort(folder, given.slides), "slide": slide, "plan": plan,
        "soak": lambda folder: soak(folder, given.cycles),
    }  # fmt: skip
    parser.add_argument("kinds", nargs="*", help=f"which of {', '.join(kinds)} (default: all)")
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: temporary)")
    given = parser.parse_args()
    print(machine("numpy", "distributed", "torch"))
    for kind in given.kinds or kinds:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            print(f"\n{kind}")
            kinds[kind](Path(folder))


if __name__ == "__main__":
    main()
