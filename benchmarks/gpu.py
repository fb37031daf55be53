"""The goals that need a GPU, end to end from a tile store: views, training and synthesis.

    python benchmarks/gpu.py [--folder DIR] [--only views,pretrain,f4,f8] [--batch 256] [--steps 80] [--tiles 2048]
    python benchmarks/gpu.py --tiny --device cpu      # the same at toy size, to see that it runs

Goals on one H200: views of 256 tiles (2 x 224 + 8 x 96) in 60 ms; 1,300 images/s of ViT-S/16 training; 25 images/s (f4,
400.9 M) and 100 images/s (f8) of synthesis with writing. Weights are random: speed does not depend on them. Training is
the difference of a long and a short run, so that starting does not count; its wait is the time in which the step had no
batch. Synthesis is the stage's own rate: loading the model counts, so make many tiles.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, textured_tiles, write_store

from histogen.config import load_config
from histogen.pipelines.pretrain import command as pretrain
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.train_autoencoder import command as train_autoencoder
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_eldm import command as train_eldm
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.ssl.augment import Normalisation, make_views
from histogen.ssl.batches import ReadAhead
from histogen.ssl.draws import ViewSpec

CONFIGS = Path(__file__).parent.parent / "configs"


class TimedReadAhead(ReadAhead):
    """Reads ahead, and adds up how long the step waits for its batch."""

    waited = 0.0

    def __call__(self, step: int) -> Any:
        start = time.perf_counter()
        batch = super().__call__(step)
        TimedReadAhead.waited += time.perf_counter() - start
        return batch


def views(device: torch.device, tiles: int, rounds: int = 20) -> None:
    """Time the views of a batch; the first three rounds warm up."""
    images = torch.from_numpy(textured_tiles(min(tiles, 64), 256)).repeat(-(-tiles // 64), 1, 1, 1)[:tiles].to(device)
    globals_ = [ViewSpec(224, (0.4, 1.0), blur=1.0), ViewSpec(224, (0.4, 1.0), blur=0.1, solarize=0.2)]
    locals_ = [ViewSpec(96, (0.05, 0.4), blur=0.5)] * 8
    normalisation, places, times = Normalisation((0.7, 0.5, 0.7), (0.2, 0.2, 0.2)), np.arange(tiles), []
    for seed in range(rounds + 3):
        start = time.perf_counter()
        make_views([images], globals_, normalisation, seed=seed, positions=places)
        make_views([images], locals_, normalisation, seed=seed, positions=places, first_slot=2)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    print(f"views of {tiles} tiles x 10 crops: {1e3 * np.median(times[3:]):.1f} ms")


def training(folder: Path, given: argparse.Namespace) -> None:
    """Train for a few and for many steps from a store; print images per second and the share of waiting."""
    pretrain.ReadAhead = TimedReadAhead  # type: ignore[misc]
    seconds, waited = [], []
    for steps in (given.steps // 4, given.steps):
        settings: dict[str, Any] = {
            "tiles": [folder / "tiles.zarr"], "out": folder / f"run-{steps}", "device": given.device,
            "workers": given.threads,
            "optim": {"batch": given.batch, "num_steps": steps}, "checkpoint_every": steps, "overwrite": True,
        }  # fmt: skip
        if given.tiny:
            settings |= {
                "model": {"name": "vit_tiny_patch16_224", "prototypes": 64, "arguments": {"depth": 1}},
                "crops": {"global_px": 64, "local_px": 32},
            }
        TimedReadAhead.waited = 0.0
        outcome = pretrain.run(PretrainConfig.model_validate(settings))
        seconds.append(steps * given.batch / outcome.results["tiles_per_second"])
        waited.append(TimedReadAhead.waited)
    taken = seconds[1] - seconds[0]
    rate, share = (given.steps - given.steps // 4) * given.batch / taken, 100 * (waited[1] - waited[0]) / taken
    print(f"training: {rate:,.1f} images/s in batches of {given.batch}, waits {share:.1f} %")


def synthesis(folder: Path, given: argparse.Namespace, kind: str) -> None:
    """Make an E-LDM of random weights and a store of tiles with it."""
    names = {"f4": ("vq_f4.yaml", "ldm_f4.yaml"), "f8": ("kl_f8.yaml", "ldm_f8.yaml")}[kind]
    store = folder / "tiles.zarr"
    auto, eldm = folder / f"auto-{kind}", folder / f"eldm-{kind}"
    small = {"optim.steps=1", "optim.batch=2", "heldout.most=2"}
    files = ("demo.yaml", "demo.yaml") if given.tiny else names
    common = {"device": given.device, "overwrite": True}
    train_autoencoder.run(
        load_config(
            TrainAutoencoderConfig,
            file=CONFIGS / "train-autoencoder" / files[0],
            overrides=[*small, "crop_px=64"],
            flags={"tiles": [store], "out": auto, **common},
        )  # fmt: skip
    )
    train_eldm.run(
        load_config(
            TrainEldmConfig,
            file=CONFIGS / "train-eldm" / files[1],
            overrides=[*small, "watch.preview_every=null", "watch.heldout_tiles=2"],
            flags={"tiles": [store], "autoencoder": str(auto), "encoder": "colour", "out": eldm, **common},
        )  # fmt: skip
    )
    outcome = synthesize.run(
        SynthesizeConfig.model_validate({"tiles": [store], "eldm": eldm, "out": folder / f"made-{kind}", **common})
    )
    tiles, seconds = outcome.results["tiles"], outcome.results["seconds"]
    print(f"synthesis {kind}: {tiles / seconds:.2f} images/s, {tiles:,} tiles with writing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", default="views,pretrain,f4,f8")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--tiles", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=16, help="that decode tiles for training")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.tiny:
        given.batch, given.steps, given.tiles, given.threads = 8, 8, 32, 2
    device = torch.device(given.device)
    print(machine("torch", "diffusers", "timm"), torch.cuda.get_device_name() if device.type == "cuda" else "")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_store(folder / "tiles.zarr", given.tiles, 64 if given.tiny else 256, distinct=min(given.tiles, 256))
        for part in given.only.split(","):
            if part == "views":
                views(device, given.batch)
            elif part == "pretrain":
                training(folder, given)
            else:
                synthesis(folder, given, part)


if __name__ == "__main__":
    main()
