"""What needs a GPU, end to end from a tile store, in one script: a line per figure, with its goal, and JSON at the end.

    python benchmarks/gpu.py [--folder DIR] [--only views,pretrain] [--batch 256] [--steps 80] [--tiles 2048] [--json F]
    python benchmarks/gpu.py --tiny --device cpu      # the same at toy size, to see that it runs

Goals on one H200: views of 256 tiles (2 x 224 + 8 x 96) in 60 ms; 1,300 images/s of ViT-S/16 training; 25 images/s (f4,
400.9 M) and 100 images/s (f8) of synthesis with writing. Weights are random: speed does not depend on them. Training is
the difference of a long and a short run, so that starting does not count; its wait is the time in which the step had no
batch. Synthesis is the stage's own rate: loading the model counts, so make many tiles. A part that fails prints why,
the others go on, and the script ends with 1. It needs neither TIAToolbox nor OpenSlide.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, textured_tiles, write_store

from histogen.config import load_config
from histogen.pipelines.embed import command as embed
from histogen.pipelines.embed.config import EmbedConfig
from histogen.pipelines.pretrain import command as pretrain
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.train_autoencoder import command as train_autoencoder
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_eldm import command as train_eldm
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.task import EldmTask
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


FIGURES: list[dict[str, Any]] = []


def say(name: str, value: float, unit: str, goal: float | None = None, *, note: str = "") -> None:
    """Print a figure with its goal, and keep it for the JSON."""
    FIGURES.append({"name": name, "value": value, "unit": unit, "goal": goal, "note": note})
    wanted = "" if goal is None else f"   (goal {goal:g})"
    print(f"{name:<34} {value:>10,.2f} {unit}{wanted}  {note}", flush=True)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()


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
        synchronise(device)
        times.append(time.perf_counter() - start)
    say(f"views of {tiles} tiles x 10 crops", 1e3 * float(np.median(times[3:])), "ms", 60)


def trained(folder: Path, given: argparse.Namespace, name: str, steps: int, **optim: Any) -> dict[str, Any]:
    """Train for ``steps`` steps into ``folder / name``, and return the run's results."""
    settings: dict[str, Any] = {
        "tiles": [folder / "tiles.zarr"], "out": folder / name, "device": given.device, "workers": given.threads,
        "optim": {"batch": given.batch, "num_steps": steps, **optim}, "checkpoint_every": steps, "overwrite": True,
    }  # fmt: skip
    if given.tiny:
        settings |= {
            "model": {"name": "vit_tiny_patch16_224", "prototypes": 64, "arguments": {"depth": 1}},
            "crops": {"global_px": 64, "local_px": 32},
        }
    return dict(pretrain.run(PretrainConfig.model_validate(settings)).results)


def training(folder: Path, given: argparse.Namespace) -> None:
    """Train for a few and for many steps from a store: images per second, the share of waiting, and memory."""
    pretrain.ReadAhead = TimedReadAhead  # type: ignore[misc]
    seconds, waited = [], []
    for steps in (given.steps // 4, given.steps):
        TimedReadAhead.waited = 0.0
        results = trained(folder, given, f"run-{steps}", steps)
        seconds.append(steps * given.batch / results["tiles_per_second"])
        waited.append(TimedReadAhead.waited)
    taken = seconds[1] - seconds[0]
    rate, share = (given.steps - given.steps // 4) * given.batch / taken, 100 * (waited[1] - waited[0]) / taken
    say(f"training, batches of {given.batch}", rate, "images/s", 1300, note=f"waits {share:.1f} %")


def determinism(folder: Path, given: argparse.Namespace) -> None:
    """Train ten steps twice: are the weights the same bytes?"""
    found = []
    for name in ("once", "again"):
        trained(folder, given, name, 10)
        found.append((folder / name / "encoder" / "model.safetensors").read_bytes())
    say("ten steps twice, the same bytes", float(found[0] == found[1]), "(1 is yes)", 1)


def float16(folder: Path, given: argparse.Namespace) -> None:
    """Train in float16 with its loss scaler; the loss must stay finite, which the loop sees to."""
    if given.device == "cpu":
        print("float16 was not run: it needs a GPU")
        return
    results = trained(folder, given, "float16", 10, precision="float16")
    say("ten steps in float16, DINO's loss", float(results["loss_dino"]), "nats")


def embedding(folder: Path, given: argparse.Namespace) -> None:
    """Embed the store with an untrained ViT-S/16."""
    name = "vit_tiny_patch16_224" if given.tiny else "vit_small_patch16_224"
    config = EmbedConfig(
        tiles=[folder / "tiles.zarr"], encoder=f"random:{name}", batch=8 if given.tiny else 256, device=given.device
    )
    results = embed.run(config).results
    say(f"embed, {name}", results["tiles"] / results["seconds"], "images/s")


class TimedEldmTask(EldmTask):
    """Takes the time after each step, when the device has done it."""

    stamps: list[float]

    def step(self, step: int) -> Any:
        metrics = super().step(step)
        synchronise(self.device)
        TimedEldmTask.stamps.append(time.perf_counter())
        return metrics


def synthesis(folder: Path, given: argparse.Namespace, kind: str) -> None:
    """Train an E-LDM for a few steps, and make a store of tiles with it."""
    names = {"f4": ("vq_f4.yaml", "ldm_f4.yaml"), "f8": ("kl_f8.yaml", "ldm_f8.yaml")}[kind]
    store = folder / "tiles.zarr"
    auto, eldm = folder / f"auto-{kind}", folder / f"eldm-{kind}"
    small = ["optim.steps=1", "optim.batch=2", "heldout.most=2"]
    steps, batch = (3, 2) if given.tiny else (12, {"f4": 32, "f8": 128}[kind])
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
    TimedEldmTask.stamps = []
    train_eldm.EldmTask = TimedEldmTask  # type: ignore[misc]
    train_eldm.run(
        load_config(
            TrainEldmConfig,
            file=CONFIGS / "train-eldm" / files[1],
            overrides=[
                f"optim.steps={steps}",
                f"optim.batch={batch}",
                "heldout.most=2",
                "watch.preview_every=null",
                "watch.heldout_tiles=2",
            ],
            flags={"tiles": [store], "autoencoder": str(auto), "encoder": "colour", "out": eldm, **common},
        )  # fmt: skip
    )
    half = len(TimedEldmTask.stamps) // 2  # the first steps choose kernels
    each = (TimedEldmTask.stamps[-1] - TimedEldmTask.stamps[half]) / (len(TimedEldmTask.stamps) - 1 - half)
    say(f"E-LDM step {kind}, batches of {batch}", batch / each, "images/s")
    outcome = synthesize.run(
        SynthesizeConfig.model_validate({"tiles": [store], "eldm": eldm, "out": folder / f"made-{kind}", **common})
    )
    tiles, seconds = outcome.results["tiles"], outcome.results["seconds"]
    say(
        f"synthesis {kind} with writing",
        tiles / seconds,
        "images/s",
        {"f4": 25, "f8": 100}[kind],
        note=f"{tiles:,} tiles",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--tiles", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=16, help="that decode tiles for training")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.tiny:
        given.batch, given.steps, given.tiles, given.threads = 8, 8, 32, 2
    device = torch.device(given.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(machine("torch", "diffusers", "timm"), card)
    failed = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_store(folder / "tiles.zarr", given.tiles, 64 if given.tiny else 256, distinct=min(given.tiles, 256))
        for part in given.only.split(","):
            try:
                PARTS[part](folder, given, device)
            except Exception:  # noqa: BLE001 - the figures of the other parts are worth having
                traceback.print_exc()
                failed.append(part)
            if device.type == "cuda":
                say(f"  peak memory, {part}", torch.cuda.max_memory_allocated() / 2**30, "GiB")
                torch.cuda.reset_peak_memory_stats()
    found = {"device": card, "torch": torch.__version__, "figures": FIGURES, "failed": failed}
    print(json.dumps(found))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    raise SystemExit(1 if failed else 0)


PARTS: dict[str, Callable[[Path, argparse.Namespace, torch.device], None]] = {
    "views": lambda folder, given, device: views(device, given.batch),
    "pretrain": lambda folder, given, device: training(folder, given),
    "determinism": lambda folder, given, device: determinism(folder, given),
    "float16": lambda folder, given, device: float16(folder, given),
    "embed": lambda folder, given, device: embedding(folder, given),
    "f8": lambda folder, given, device: synthesis(folder, given, "f8"),
    "f4": lambda folder, given, device: synthesis(folder, given, "f4"),
}


if __name__ == "__main__":
    main()
