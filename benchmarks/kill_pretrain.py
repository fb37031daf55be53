"""Kills of `histogen pretrain` at random steps; the final weights must be those of a run that was never killed.

    python benchmarks/kill_pretrain.py [--kills 20] [--seed 0] [--folder DIR]

The kills are spread over DINO and Gen-DINO, 0 and 2 loader threads, 1 and 2 processes (gloo). Each goes to a random
process at a random step, between two of its checkpoints or in the middle of one; then the run is resumed. Compared are
the SHA-256 of the teacher's weights, the exported encoder and the journal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import machine, textured_tiles

from histogen.pipelines.pretrain import command as pretrain
from histogen.ssl.task import DinoTask
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore

NUM_TILES, NUM_STEPS, TIMEOUT = 48, 40, 300
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Case:
    """One way of training."""

    method: str
    threads: int
    processes: int

    def settings(self, folder: Path, out: Path) -> dict[str, Any]:
        stores = {"generative": "generative.zarr", "interpolated": "interpolated.zarr"}
        return {
            "tiles": [str(folder / "tiles.zarr")], "out": str(out), "workers": self.threads, "resume": True,
            **({key: str(folder / name) for key, name in stores.items()} if self.method == "Gen-DINO" else {}),
            "model": {
                "name": "vit_tiny_patch16_224", "prototypes": 64, "head_hidden": 64, "head_bottleneck": 32,
                "arguments": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
            },
            "crops": {"global_px": 32, "local_px": 16, "num_local": 2},
            "optim": {"num_steps": NUM_STEPS, "batch": 8, "warmup_epochs": 1, "lr": 2e-3},
            "log_every": 3, "checkpoint_every": 4,
        }  # fmt: skip


def write_stores(folder: Path) -> None:
    """Write real, generative and interpolated tiles."""
    same, rows = Column(np.zeros(NUM_TILES, np.int32), ["tiles"]), np.arange(NUM_TILES)
    made = {
        "source_store": same, "source_index": rows, "partner_store": same, "partner_index": rows ^ 1,
        "alpha": np.linspace(0.3, 0.7, NUM_TILES).astype(np.float32),
    }  # fmt: skip
    for seed, (name, kind) in enumerate((("tiles", "slide"), *[(k, k) for k in ("generative", "interpolated")])):
        store = TileStore.create(
            folder / f"{name}.zarr", kind=kind, store_id=name, tile_px=32, mpp=0.5, num_tiles=NUM_TILES, provenance={},
            columns=made if seed else {},
        )  # fmt: skip
        payloads = [encode_jpeg(tile) for tile in textured_tiles(NUM_TILES, 32, seed)]
        store.commit("tiles", 0, store.write_tiles(0, payloads))


class Run:
    """A run in processes of their own, forked so that nothing is imported again."""

    def __init__(self, settings: dict[str, Any], processes: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.reached: list[Synchronized[int]] = [FORK.Value("i", -1) for _ in range(processes)]
        self.children: list[ForkProcess] = []
        for rank in range(processes):
            env = {
                "WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo",
            }  # fmt: skip
            child = FORK.Process(target=_train, args=(settings, env, self.reached[rank]))
            child.start()
            self.children.append(child)

    def finish(self) -> None:
        """Wait until the run has ended by itself."""
        for child in self.children:
            child.join(TIMEOUT)
            if child.exitcode != 0:
                raise RuntimeError(f"a run ended with exit code {child.exitcode}")

    def kill(self, step: int, rng: random.Random) -> int:
        """SIGKILL a random process once it is in ``step`` or beyond, then the others, as torchrun does.

        Returns the step it was in.
        """
        victim = rng.randrange(len(self.children))
        deadline = time.monotonic() + TIMEOUT
        while self.reached[victim].value < step:
            if not self.children[victim].is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the run ended before step {step}")
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        for child in (self.children[victim], *self.children):
            child.kill()
        for child in self.children:
            child.join()
        if self.children[victim].exitcode != -signal.SIGKILL:
            raise RuntimeError("the run had ended before it was killed")
        return self.reached[victim].value


def _train(settings: dict[str, Any], env: dict[str, Any], reached: Synchronized[int]) -> None:
    os.environ.update({key: str(value) for key, value in env.items()})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    inner = DinoTask.step

    def step(self: DinoTask, number: int) -> dict[str, float]:
        reached.value = number
        return inner(self, number)

    DinoTask.step = step  # type: ignore[method-assign]
    pretrain.run(pretrain.PretrainConfig.model_validate(settings))


def result_of(out: Path) -> dict[str, str]:
    """Return what must be equal."""
    weights = json.loads((out / "run.json").read_text())["results"]["weights_sha256"]
    return {"weights": weights, "journal": (out / "metrics.jsonl").read_text()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write (default: temporary)")
    given = parser.parse_args()
    print(machine("torch", "timm"))
    cv2.setNumThreads(1)  # a pool of threads would not survive the fork
    torch.set_num_threads(1)
    cases = [Case(*values) for values in itertools.product(("DINO", "Gen-DINO"), (0, 2), (1, 2))]
    kills = [given.kills // len(cases) + (number < given.kills % len(cases)) for number in range(len(cases))]
    rng, spent, equal = random.Random(given.seed), 0, 0
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_stores(folder)
        expected: dict[tuple[str, int], dict[str, str]] = {}
        for case, number in zip(cases, kills, strict=True):
            key = (case.method, case.processes)  # threads must not matter
            if key not in expected:
                out = folder / f"whole-{case.method}-{case.processes}" / "run"
                Run(case.settings(folder, out), case.processes).finish()
                expected[key] = result_of(out)
            out = folder / f"{case.method}-{case.threads}-{case.processes}" / "run"
            settings = case.settings(folder, out)
            wanted = sorted(rng.sample(range(NUM_STEPS - 4), number))
            steps = [Run(settings, case.processes).kill(step, rng) for step in wanted]
            Run(settings, case.processes).finish()
            same = result_of(out) == expected[key]
            spent, equal = spent + number, equal + same
            print(
                f"{case.method}, {case.threads} threads, {case.processes} processes: killed in steps {steps}, "
                f"{'equal' if same else 'DIFFERENT'}",
                flush=True,
            )
    print(f"{spent} kills, {equal} of {len(cases)} runs end with the weights and the journal of an undisturbed one")
    sys.exit(equal != len(cases))


if __name__ == "__main__":
    main()
