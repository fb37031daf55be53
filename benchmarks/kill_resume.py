"""Fifty kills at random moments, then a check that nothing was lost: import-images and tile.

    python benchmarks/kill_resume.py [--kills 50] [--command import-images|tile] [--workers 2]

Each trial starts the command (with --resume), waits until a random number of shards is noted and a random moment more,
and sends SIGKILL: to the command itself, or (with
workers, every second time) to one of its worker processes. After each kill every shard that the ledger calls done must
have the SHA-256 of its note, and at most one shard per worker may be on disk without a note (that work is redone). When
a run gets through, its stores must equal those of an undisturbed run, byte for byte; then it begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
from common import machine, textured_tiles

from histogen.store.find import find_stores
from histogen.store.tile_store import TileStore

HISTOGEN = str(Path(sys.executable).parent / "histogen")
TIMEOUT = 300


@dataclass
class Tally:
    """What was seen over all trials."""

    client_kills: int = 0
    worker_kills: int = 0
    finished: int = 0
    midway: int = 0
    """Kills after which some shards were done, and some not."""
    most_redone: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--command", choices=("import-images", "tile"), default="import-images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: temporary)")
    arguments = parser.parse_args()
    print(machine("distributed"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tally = run_trials(Path(folder), arguments)
    print(
        f"{arguments.command}, {arguments.workers} workers: {tally.client_kills} kills of the client, "
        f"{tally.worker_kills} of a worker, {tally.midway} of these runs stopped between shards; {tally.finished} runs "
        f"got through, {len(tally.problems)} problems, at most {tally.most_redone} shards redone per kill"
    )
    sys.exit(bool(tally.problems))


def run_trials(folder: Path, arguments: argparse.Namespace) -> Tally:
    """Kill and resume until the kills are spent and a last run has got through."""
    source = write_images(folder) if arguments.command == "import-images" else write_slides(folder)
    call = [HISTOGEN, arguments.command, str(source), "--workers", str(arguments.workers), "--resume", "--out"]
    if arguments.command == "tile":
        call[3:3] = ["--set", "tile_px=32"]
    start = time.monotonic()
    subprocess.run([*call, str(folder / "whole.zarr" if arguments.command != "tile" else folder / "whole")],
                   check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
    seconds = time.monotonic() - start
    suffix = ".zarr" if arguments.command != "tile" else ""
    whole, out = folder / f"whole{suffix}", folder / "again" / f"whole{suffix}"
    expected, tally, rng, known = contents(whole), Tally(), random.Random(arguments.seed), 0
    print(f"undisturbed: {seconds:.1f} s, {len(expected)} files", flush=True)
    while tally.client_kills + tally.worker_kills < arguments.kills or out.exists():
        spent = tally.client_kills + tally.worker_kills >= arguments.kills
        ended = one_trial(
            [*call, str(out)],
            out,
            None if spent else rng.randint(noted(out), max(noted(out), noted(whole) - 1)),
            rng,
            tally,
        )
        check(out, arguments.workers, tally, ended)
        kills = tally.client_kills + tally.worker_kills
        print(f"  {kills} kills, {tally.finished} got through", *tally.problems[known:], sep="\n    ", flush=True)
        known = len(tally.problems)
        if ended:
            tally.finished += 1
            compare(expected, contents(out), tally)
            shutil.rmtree(out)
    return tally


def one_trial(call: list[str], out: Path, shards: int | None, rng: random.Random, tally: Tally) -> bool:
    """Start the command and kill it, or one of its workers, once ``shards`` are noted; return whether it ended."""
    fresh = noted(out) == shards
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(call, stderr=messages, stdout=subprocess.DEVNULL)
        while shards is not None and noted(out) < shards and process.poll() is None:
            time.sleep(0.005)
        try:
            code = process.wait(timeout=TIMEOUT if shards is None else rng.uniform(0, 3 if fresh else 0.2))
        except subprocess.TimeoutExpired:
            code = kill(process, rng, tally)
        if code not in (0, -signal.SIGKILL):
            messages.seek(0)
            tally.problems.append(f"exit code {code}: {messages.read()[-600:]}")
    return code == 0


def noted(out: Path) -> int:
    """Return how many shards of the stores in ``out`` are done."""
    return sum(1 for _ in out.rglob("ledger/tiles/*.json"))


def kill(process: subprocess.Popen[bytes], rng: random.Random, tally: Tally) -> int:
    """Kill a worker process and wait for the command to get through all the same, or kill the command itself."""
    workers = [] if (tally.client_kills + tally.worker_kills) % 2 == 0 else worker_pids(process.pid)
    if workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
        tally.worker_kills += 1
        return process.wait(timeout=TIMEOUT)
    children = descendants(process.pid)
    process.kill()
    tally.client_kills += 1
    code = process.wait()
    wait_for_end(children)
    return code


def check(out: Path, workers: int, tally: Tally, ended: bool) -> None:
    """Check every shard that is called done, and count those on disk that are not."""
    if not any(out.glob("*.zarr")) and not (out / "zarr.json").exists():
        return
    redone, done, missing = 0, 0, 0
    for path in find_stores(out):
        if not (path / "zarr.json").exists():
            continue
        store = TileStore.open_(path)
        notes = store.ledger.notes("tiles")
        done, missing = done + len(notes), missing + store.num_shards - len(notes)
        for shard in range(store.num_shards):
            file = path / "tiles" / "c" / str(shard) / "0" / "0" / "0"
            if shard in notes:
                if hashlib.sha256(file.read_bytes()).hexdigest() != notes[shard]["sha256"]:
                    tally.problems.append(f"{file} differs from its note")
            elif file.parent.exists() and any(file.parent.iterdir()):
                redone += 1
    tally.midway += bool(not ended and done and missing)
    tally.most_redone = max(tally.most_redone, redone)
    if redone > workers:
        tally.problems.append(f"{redone} shards to be redone, with {workers} workers")


def compare(expected: dict[str, str], found: dict[str, str], tally: Tally) -> None:
    """Note the files that differ from the undisturbed run's."""
    odd = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if odd:
        tally.problems.append(f"{len(odd)} files differ from the undisturbed run's: {', '.join(odd[:3])} ...")


def contents(out: Path) -> dict[str, str]:
    """Return the hash of every file of the stores, but the recorded config, which names where the store is."""
    return {
        f"{path.name}/{file.relative_to(path)}": hashlib.sha256(file.read_bytes()).hexdigest()
        for path in find_stores(out)
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("config.yaml", "run.json")
    }


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs (Linux)."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def worker_pids(pid: int) -> list[int]:
    """Return the worker processes of a command: those spawned by multiprocessing, not its resource tracker."""
    return [child for child in descendants(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_for_end(pids: list[int]) -> None:
    """Wait until processes orphaned by a kill have ended, as they should by themselves."""
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and b"spawn_main" in cmdline(pid) for pid in pids):
        if time.monotonic() > deadline:
            sys.exit("worker processes live on after their client was killed")
        time.sleep(0.05)


def cmdline(pid: int) -> bytes:
    """Return the command line of a process, empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def write_images(folder: Path, count: int = 12_288) -> Path:
    """Write PNG images (which must be encoded): twelve shards of them."""
    images = folder / "images"
    tiles = textured_tiles(64, 64)
    for number in range(count):
        path = images / f"class{number % 3}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), tiles[number % 64] ^ (number // 64 % 8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return images


def write_slides(folder: Path, count: int = 6) -> Path:
    """Draw slides of several shards each (32 px tiles)."""
    from histogen.geometry import Extent
    from histogen.slides.drawn import draw_slide

    for number in range(count):
        (folder / "slides").mkdir(exist_ok=True)
        draw_slide(folder / "slides" / f"s{number}.svs", seed=number, extent=Extent(3072, 2304))
    return folder / "slides"


if __name__ == "__main__":
    main()
