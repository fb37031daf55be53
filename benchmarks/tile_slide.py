"""Tiles per CPU-second of whole runs on a 20,224 x 20,224 slide, ours and others' in turn, from start to exit.

    python benchmarks/tile_slide.py --folder /tmp/bench [--hs2p PYTHON_WITH_HS2P] [--repeats 3] [--only NAMES]

NAMES: native, resample (against the peers), passthrough and large (a slide of 40,448 x 40,448 px), source (the loss of
encoding again), threads (one against two, and workers).

CPU seconds are user + system of the whole process (wait4), imports and planning included, so a busy machine hardly
matters; the medians of interleaved runs are printed. Every tool cuts every tile: no tissue is looked for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from big_slide import TILE_PX, build, num_tiles
from common import Clock, machine

from histogen.geometry import Extent
from histogen.pipelines.tile.cut_shard import ShardUnit, cut_shard
from histogen.slides.base import open_slide
from histogen.slides.native import NativeSlide
from histogen.store.tile_store import TileStore

PX, MPP, SCANNED = 224, 0.5, 0.2325
LARGE_TILES = 158

HS2P = """
import sys, shutil
from pathlib import Path
from hs2p import FilterConfig, SegmentationConfig, SlideSpec, TilingConfig, tile_slides
slide, out, mpp, px = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
made = tile_slides([SlideSpec(sample_id="s", image_path=slide)], output_dir=out, num_workers=1, save_tiles=True,
    tiling=TilingConfig(backend="openslide", requested_spacing_um=mpp, requested_tile_size_px=px, tolerance=1e-4,
                        overlap=0.0),
    segmentation=SegmentationConfig(method="hsv", downsample=16), filtering=FilterConfig(), preview=None)
print("TILES", made[0].num_tiles)
"""
TIATOOLBOX = """
import sys
from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor
from tiatoolbox.wsicore.wsireader import WSIReader
slide, _, mpp, px = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
patches = SlidingWindowPatchExtractor(WSIReader.open(slide), patch_size=px, stride=px, resolution=mpp, units="mpp")
import resource
before = resource.getrusage(resource.RUSAGE_SELF)
count = min(len(patches), 1500)
for index in range(count):
    patches[index]
after = resource.getrusage(resource.RUSAGE_SELF)
print("TILES", count)
print("CPU", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


@dataclass
class Run:
    tiles: int
    cpu: float
    wall: float
    rss_mb: float


def measure(command: list[str], out: Path) -> Run:
    """Run a command to its end; what it printed as TILES (and CPU) counts, else the report of ours."""
    import time

    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as p:
        assert p.stdout is not None
        printed = dict(line.split(" ", 1) for line in p.stdout.read().splitlines() if line[:4] in ("TILE", "CPU "))
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        raise SystemExit(f"{command} exited with {p.returncode}")
    tiles = int(printed["TILES"]) if "TILES" in printed else json.loads((out / "report.json").read_text())["tiles"]
    cpu = float(printed.get("CPU", usage.ru_utime + usage.ru_stime))
    return Run(tiles, cpu, time.monotonic() - start, usage.ru_maxrss / 1024)


def ours(slide: Path, out: Path, *settings: str, px: int = PX, mpp: str = str(MPP)) -> list[str]:
    plain = ["tissue.method=none", "tissue.remove_pen=false", "min_tissue_fraction=0", f"tile_px={px}", f"mpp={mpp}"]
    sets = [part for setting in (*plain, *settings) for part in ("--set", setting)]
    return [sys.executable, "-m", "histogen", "tile", str(slide), "--out", str(out), *sets]


def compare(title: str, commands: dict[str, tuple[list[str], Path]], repeats: int) -> dict[str, Run]:
    """Print a table of medians of interleaved runs; the first command is what the others are compared with."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, (command, out) in commands.items():
            runs[name].append(measure(command, out))
    print(f"\n{title}")
    medians = {}
    for name, all_runs in runs.items():
        cpu, wall = (statistics.median(getattr(r, key) for r in all_runs) for key in ("cpu", "wall"))
        medians[name] = Run(all_runs[0].tiles, cpu, wall, max(r.rss_mb for r in all_runs))
        rate = all_runs[0].tiles / cpu
        first = next(iter(medians.values()))
        print(
            f"  {name:<40s} {all_runs[0].tiles:>6,} tiles {rate:>8,.0f} /CPU-s {all_runs[0].tiles / wall:>9,.0f} /s"
            f" {medians[name].rss_mb:>6,.0f} MB   first is {first.tiles / first.cpu / rate:.2f} x"
        )
    return medians


def against_openslide(store: TileStore, slide_path: Path, count: int = 200) -> float:
    """The least PSNR, dB, of random tiles against OpenSlide's pixels."""
    slide = open_slide(slide_path, reader="openslide")
    x, y = (store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0"))
    worst = 99.0
    for index in np.random.default_rng(0).choice(store.num_tiles, count, replace=False).tolist():
        expected = slide.read_level(0, round(x[index]), round(y[index]), Extent(store.tile_px, store.tile_px))
        error = ((store.read_tile(index).astype(float) - expected) ** 2).mean()
        worst = min(worst, 20 * np.log10(255) - 10 * np.log10(max(error, 1e-9)))
    return worst


def passthrough(folder: Path, slide: Path, repeats: int) -> None:
    out = folder / "passthrough"
    command = ours(slide, out, "codec=source", px=TILE_PX, mpp="native")
    runs, rates = [], []
    for _ in range(repeats):
        runs.append(measure(command, out))
        store = TileStore.open_(next(out.glob("*.zarr")))
        with Clock() as clock:
            for shard in range(store.num_shards):
                cut_shard(ShardUnit(store.path, slide, shard, len(store.shard_range(shard))))
        rates.append((runs[-1].tiles / clock.cpu, runs[-1].tiles / clock.wall))
    source, store = NativeSlide(slide), TileStore.open_(next(out.glob("*.zarr")))
    equal = sum(store.read_payload(i) == source.read_payload(0, i) for i in range(store.num_tiles))
    best = max(runs, key=lambda r: r.tiles / r.cpu)
    print(
        f"\nPassthrough of {slide.name}: {best.tiles:,} tiles, whole process {best.tiles / best.cpu:,.0f} /CPU-s and "
        f"{best.tiles / best.wall:,.0f} /s wall, "
        f"cutting alone {max(rates)[0]:,.0f} /CPU-s and {max(rates)[1]:,.0f} /s wall; {equal:,} equal the slide's; "
        f"least PSNR against OpenSlide {against_openslide(store, slide, 50):.1f} dB (99 is equality)"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hs2p", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slides", type=Path, nargs="*", help="for source, instead of the drawn one")
    parser.add_argument("--only", default="native,resample,passthrough,source,threads,large")
    arguments = parser.parse_args()
    arguments.slides = arguments.slides or [arguments.folder / "pattern.svs"]
    folder, repeats, only = arguments.folder, arguments.repeats, arguments.only.split(",")
    plain = build(folder / "ycc_0.5.svs", mpp=MPP)
    scanned = build(folder / "ycc_0.2325.svs", mpp=SCANNED)
    print(machine("imagecodecs", "openslide-python", "tiatoolbox", "tifffile"))

    def contest(slide: Path) -> dict[str, tuple[list[str], Path]]:
        out = folder / "out"
        commands = {
            "histogen tile (native reader)": (ours(slide, out), out),
            "histogen tile (reader=openslide)": (ours(slide, folder / "out-os", "reader=openslide"), folder / "out-os"),
        }
        others = {"TIAToolbox SlidingWindow, reading only": (Path(sys.executable), TIATOOLBOX)}
        if arguments.hs2p:
            others["hs2p save_tiles (tar of JPEG)"] = (arguments.hs2p, HS2P)
        for name, (python, code) in others.items():
            commands[name] = ([str(python), "-c", code, str(slide), str(folder / "peer"), str(MPP), str(PX)],
                              folder / "peer")  # fmt: skip
        return commands

    steps: dict[str, Callable[[], None]] = {}

    def native() -> None:
        compare(f"{PX} px at the slide's {MPP} mpp, q90", contest(plain), repeats)
        worst = against_openslide(TileStore.open_(folder / "out" / "ycc_0.5.zarr"), plain)
        print(f"  least PSNR of 200 tiles against OpenSlide: {worst:.1f} dB; tiles possible: {num_tiles(PX):,}")

    def source() -> None:
        for slide, px, level in itertools.product(arguments.slides, (224, 256, 225), ("source", "90")):
            whole, said = loss(slide, px, level, folder / f"loss-{slide.stem}-{px}-{level}")
            print(f"{slide.name}, {px} px, jpeg.level={level}: all tiles {whole:.1f} dB, the report says {said}")

    def threads() -> None:
        for slide, name in itertools.product(
            (plain, build(folder / "ycc_large.svs", side_tiles=LARGE_TILES)), ("threads", "workers")
        ):
            runs = {n: cutting(ours(slide, folder / name, f"{name}={n}"), folder / name, repeats) for n in (1, 2)}
            print(
                f"{slide.name}, {name}: cutting takes {runs[1]:.2f} s with 1, {runs[2]:.2f} s with 2: "
                f"{runs[1] / runs[2]:.2f} x"
            )

    def large() -> None:
        slide = build(folder / "ycc_large.svs", side_tiles=LARGE_TILES)
        for threads in (1, 2):
            command = ours(slide, folder / "large", f"threads={threads}")
            compare("Large slide", {f"{threads} threads": (command, folder / "large")}, 1)
        passthrough(folder, slide, repeats)
        passthrough(folder, build(folder / "rgb_large.svs", abbreviated=True, side_tiles=LARGE_TILES), repeats)

    steps["native"] = native
    steps["resample"] = lambda: void(compare(f"{PX} px, {SCANNED} to {MPP} mpp", contest(scanned), repeats))
    steps["passthrough"] = lambda: [
        passthrough(folder, s, repeats) for s in (plain, build(folder / "rgb_0.5.svs", abbreviated=True))
    ].clear()
    steps["source"] = source
    steps["threads"] = threads
    steps["large"] = large
    for name in only:
        steps[name]()


def loss(slide: Path, px: int, level: str, out: Path) -> tuple[float, float]:
    """PSNR, dB, of all tissue tiles against the pixels that the slide shows, and what the report says."""
    sets = [f"tile_px={px}", "mpp=native", f"jpeg.level={level}"]
    command = [sys.executable, "-m", "histogen", "tile", str(slide), "--out", str(out)]
    measure([*command, *(part for setting in sets for part in ("--set", setting))], out)
    store, source = TileStore.open_(next(out.glob("*.zarr"))), open_slide(slide, reader="openslide")
    x, y = (store.read_rows(f"columns/{name}").round().astype(int).tolist() for name in ("x_l0", "y_l0"))
    errors = [
        ((store.read_tile(i).astype(float) - source.read_level(0, x[i], y[i], Extent(px, px))) ** 2).mean()
        for i in range(store.num_tiles)
    ]
    said = json.loads((out / "report.json").read_text())["slides"][0]["loss_db"]
    return 20 * np.log10(255) - 10 * np.log10(np.mean(errors)), said


def cutting(command: list[str], out: Path, repeats: int) -> float:
    """Median seconds of wall that cutting took, by the report: without imports, planning and starting workers."""
    seconds = []
    for _ in range(repeats):
        measure(command, out)
        seconds.append(json.loads((out / "report.json").read_text())["seconds"]["tile"])
    return statistics.median(seconds)


def void(_: object) -> None:
    """Forget a result."""


if __name__ == "__main__":
    main()
