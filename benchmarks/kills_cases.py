"""What `kills.py` runs: the commands with tiny networks, and the inputs that they share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml
from common import textured_tiles

TINY = Path(__file__).parents[1] / ".ci" / "tiny.yaml"
HISTOGEN = (sys.executable, "-m", "histogen")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "histogen")
NOTES, ROWS = "**/ledger/**/[0-9]*.json", "**/metrics.jsonl"
PACE = {"log_every": 3, "checkpoint_every": 4}
"""Out of step with each other, so that a checkpoint falls between rows of the journal."""
NUM_STEPS, NUM_IMAGES = 30, 6_144


@dataclass(frozen=True)
class Case:
    """One command; it runs in a folder of its own, and ``{inputs}`` stands for that of the shared ones."""

    name: str
    words: str
    progress: tuple[str, ...] = (NOTES,)
    """Patterns of what it leaves as it goes on: files, and the rows of journals."""
    brings: str | None = None
    """The input that it writes into: its folder has a copy, named tiles."""
    ranks: int = 1
    """Processes that `torchrun` starts."""

    def call(self, inputs: Path, *, resume: bool) -> list[str]:
        """Return the command line."""
        words = self.words.format(inputs=inputs).split()
        return [*(TORCHRUN if self.ranks > 1 else HISTOGEN), *words, *(["--resume"] if resume else [])]


TRAIN_ELDM = "train-eldm {tiles} --encoder {{inputs}}/dino --autoencoder {{inputs}}/autoencoder --out eldm"
TRAIN_ELDM += " --device cpu --config {{inputs}}/train_eldm.yaml"
TRAIN_AUTOENCODER = "train-autoencoder {inputs}/tiles --out autoencoder --config {inputs}/train_autoencoder.yaml"
PRETRAIN = "pretrain {inputs}/tiles --generative {inputs}/generative --interpolated {inputs}/interpolated --out dino"
PRETRAIN += " --device cpu --config {inputs}/pretrain.yaml"
EXPORT = "export {inputs}/tiles --encoder colour-histogram --out exported --workers 2 --format"

CASES = (
    Case("tile", "tile {inputs}/slides --annotations {inputs}/slides --out tiles --tile-px 32 --mpp 1 --workers 2"),
    Case("import-images", "import-images {inputs}/images --out images.zarr --workers 2"),
    Case("embed", "embed tiles --encoder {inputs}/dino --device cpu --workers 2", brings="bare"),
    Case(
        "latents",
        f"{TRAIN_ELDM.format(tiles='tiles')} --workers 2 --set variants=2 --set optim.steps=1",
        brings="embedded",
    ),
    Case("synthesize", "synthesize {inputs}/tiles --eldm {inputs}/eldm --kind interpolated --out made --device cpu"
         " --workers 2"),
    Case("export webdataset", f"{EXPORT} webdataset", ("**/*.tar",)),
    Case("export trident", f"{EXPORT} trident --images", ("**/*_patches.h5",)),
    Case("pretrain", f"{PRETRAIN} --set workers=2", (ROWS,)),
    Case("pretrain, 2 ranks", PRETRAIN, (ROWS,), ranks=2),
    Case("train-autoencoder", f"{TRAIN_AUTOENCODER} --device cpu", (ROWS,)),
    Case("train-autoencoder, 2 ranks", f"{TRAIN_AUTOENCODER} --device cpu", (ROWS,), ranks=2),
    Case("train-eldm", TRAIN_ELDM.format(tiles="{inputs}/tiles"), (ROWS,)),
    Case("train-eldm, 2 ranks", TRAIN_ELDM.format(tiles="tiles"), (NOTES, ROWS), brings="bare", ranks=2),
    Case("run", f"run {TINY} --out run --device cpu --workers 2", (NOTES, ROWS)),
)  # fmt: skip


def write_inputs(folder: Path, environment: dict[str, str]) -> None:
    """Write images, configs and, by a run of the chain on eight drawn slides, all that a stage needs of another."""
    settings: dict[str, Any] = yaml.safe_load(TINY.read_text())
    write_images(folder / "images")
    for name, steps in (("pretrain", "num_steps"), ("train_autoencoder", "steps"), ("train_eldm", "steps")):
        block = settings[name] | PACE
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(block | {"optim": block["optim"] | {steps: NUM_STEPS}}))
    sizes = ("--set", "draw.num_slides=8", "--set", "tile.mpp=1", "--set", "benchmark.test_share=0.5")
    command = [*HISTOGEN, "run", str(TINY), "--out", str(folder / "chain"), "--device", "cpu", *sizes]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    for made in ("slides", "tiles", "dino", "autoencoder", "eldm", "generative", "interpolated"):
        (folder / "chain" / made).rename(folder / made)
    for name, lacking in (("embedded", ("latents",)), ("bare", ("latents", "embeddings"))):
        shutil.copytree(folder / "tiles", folder / name)
        for rows in lacking:
            for place in (*(folder / name).glob(f"*.zarr/{rows}"), *(folder / name).glob(f"*.zarr/ledger/{rows}")):
                shutil.rmtree(place)


def write_images(folder: Path) -> None:
    """Write PNG images, which must be encoded: six shards of them."""
    tiles = textured_tiles(64, 32)
    for number in range(NUM_IMAGES):
        path = folder / f"class{number % 3}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), tiles[number % 64] ^ (number // 64 % 8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
