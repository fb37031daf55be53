"""Is a collapse named within 200 steps, and does a healthy run stay unnamed?

    python benchmarks/collapse.py [--tiles STORE] [--healthy 20] [--broken 10] [--uniform 10] [--steps 200]
        [--first-seed 0] [--trace]

Broken: no centring and the learning rate times 50; one prototype wins. Uniform: a teacher that does not sharpen (its
temperature is 1); every output becomes the uniform one and the loss sits at ln K. Healthy: the same run with all as it
should be. Each run has its own seed. Tiles: of STORE, at least 64 px; stripes of three directions in colours that vary
when not given. The network is a vision transformer of 0.1 M parameters, 2 x 64 + 2 x 32 px, batch 16.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from histogen.pipelines.pretrain import command as pretrain
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_store import TileStore

LR = 2e-3
KINDS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "broken": {"loss": {"centre": False}, "optim": {"lr": 50 * LR}},
    "uniform": {"loss": {"teacher_temp": 1.0, "teacher_temp_start": 1.0}},
}


def make_tiles(path: Path, number: int = 240, px: int = 64) -> Path:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:px, :px]
    payloads = []
    for i in range(number):
        wave = np.sin([x, y, x + y][i % 3] * rng.uniform(0.5, 1.0) + rng.uniform(0, 6.3))[..., None]
        tile = rng.uniform(80, 180, 3) + 40 * wave + rng.normal(0, 12, (px, px, 3))
        payloads.append(encode_jpeg(np.clip(tile, 0, 255).astype(np.uint8)))
    store = TileStore.create(
        path, kind="natural", store_id=path.stem, tile_px=px, mpp=None, num_tiles=number, provenance={}
    )
    store.commit("tiles", 0, store.write_tiles(0, payloads))
    return path


def run(tiles: Path, out: Path, seed: int, steps: int, kind: str) -> tuple[int | None, str, list[dict]]:
    """Train, and return when a collapse was named, in which words, and the journal."""
    changes, said = KINDS[kind], io.StringIO()
    config = pretrain.PretrainConfig(
        tiles=[tiles], out=out, seed=seed, log_every=10, checkpoint_every=steps, workers=0,
        model={
            "name": "vit_tiny_patch16_224", "prototypes": 256, "head_hidden": 128, "head_bottleneck": 64,
            "arguments": {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2},
        },
        crops={"global_px": 64, "local_px": 32, "num_local": 2},
        augment={"blur": (0.5, 0.1, 0.5), "blur_sigma": (0.1, 0.6), "normalise": "tiles"},
        loss={"teacher_momentum": 0.99, **changes.get("loss", {})},
        optim={"num_steps": steps, "batch": 16, "lr": LR, "warmup_epochs": 1, **changes.get("optim", {})},
    )  # fmt: skip
    with contextlib.redirect_stderr(said):
        pretrain.run(config)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    named = json.loads((out / "run.json").read_text())["results"].get("collapse_step")
    sentence = next((line for line in said.getvalue().splitlines() if line.startswith("collapse at")), "")
    return named, sentence, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=Path)
    for kind, number in (("healthy", 20), ("broken", 10), ("uniform", 10)):
        parser.add_argument(f"--{kind}", type=int, default=number)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tiles, start = given.tiles or make_tiles(Path(name) / "tiles.zarr"), time.process_time()
        found: dict[str, list[int | None]] = {kind: [] for kind in KINDS}
        least: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            for seed in range(given.first_seed, given.first_seed + getattr(given, kind)):
                step, sentence, rows = run(tiles, Path(name) / f"{kind}-{seed}", seed, given.steps, kind)
                found[kind].append(step)
                least[kind].append((min(r["information"] for r in rows), min(r["marginal_entropy"] for r in rows)))
                print(kind, seed, step, "least {:.4f} / {:.2f} nats".format(*least[kind][-1]), sentence, flush=True)
                if given.trace:
                    print(*[f"{r['information']:.3f}/{r['marginal_entropy']:.2f}/{r['loss_dino']:.2f}" for r in rows])
    runs = sum(map(len, found.values()))
    print(f"{runs} runs, {(time.process_time() - start) / max(1, runs):.1f} CPU-s each")
    for kind, steps in found.items():
        if steps:
            named = [step for step in steps if step is not None]
            when = f" (steps {min(named)} to {max(named)})" if named else ""
            told, used = (min(values) for values in zip(*least[kind], strict=True))
            print(
                f"{kind}: {len(named)} of {len(steps)} named{when}; least information {told:.4f} nats, least marginal "
                f"entropy {used:.2f} nats"
            )


if __name__ == "__main__":
    main()
