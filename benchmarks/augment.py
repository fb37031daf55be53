"""Views per second against torchvision's pipeline on Pillow images, DINO's 2 x 224 + 8 x 96, one thread.

    python benchmarks/augment.py [TILES] [--tiles 8] [--rounds 7]

TILES is a folder of images; drawn tiles of 256 px when not given. Prints CPU milliseconds per tile and the ratio.
That the views are the same ones, tests/ssl/test_augment.py shows on the same draws.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from common import textured_tiles
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from histogen.ssl.augment import Normalisation, make_views
from histogen.ssl.draws import ViewSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Blur:
    """Blur with Pillow, as DINO does."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.random() > self.share:
            return image
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


class Solarize:
    """Solarize with Pillow, as DINO does."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return ImageOps.solarize(image) if random.random() < 0.2 else image


def reference() -> list[transforms.Compose]:
    """The ten transforms of one tile."""
    colour = [
        transforms.RandomHorizontalFlip(0.5),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(0.2),
    ]
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    bicubic = transforms.InterpolationMode.BICUBIC

    def crop(px: int, scale: tuple[float, float]) -> transforms.RandomResizedCrop:
        return transforms.RandomResizedCrop(px, scale=scale, interpolation=bicubic)

    first = transforms.Compose([crop(224, (0.4, 1.0)), *colour, Blur(1.0), *end])
    second = transforms.Compose([crop(224, (0.4, 1.0)), *colour, Blur(0.1), Solarize(), *end])
    local = transforms.Compose([crop(96, (0.05, 0.4)), *colour, Blur(0.5), *end])
    return [first, second, *[local] * 8]


def load(folder: Path | None, number: int) -> np.ndarray:
    if folder is None:
        return textured_tiles(number, 256)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))[:number]
    return np.stack([np.asarray(Image.open(f).convert("RGB").resize((256, 256))) for f in files])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    images = load(given.folder, given.tiles)
    pillow, tensor = [Image.fromarray(i) for i in images], torch.from_numpy(images)
    globals_ = [ViewSpec(224, (0.4, 1.0), blur=1.0), ViewSpec(224, (0.4, 1.0), blur=0.1, solarize=0.2)]
    locals_, normalisation = [ViewSpec(96, (0.05, 0.4), blur=0.5)] * 8, Normalisation(MEAN, STD)
    pipeline = reference()

    def ours(seed: int) -> list[torch.Tensor]:
        places = np.arange(len(images))
        return [
            make_views([tensor], globals_, normalisation, seed=seed, positions=places),
            make_views([tensor], locals_, normalisation, seed=seed, positions=places, first_slot=2),
        ]

    def theirs(seed: int) -> list[torch.Tensor]:
        random.seed(seed)
        torch.manual_seed(seed)
        views = [[transform(image) for transform in pipeline] for image in pillow]
        return [torch.stack([torch.stack(v[a:b]) for v in views], 1) for a, b in ((0, 2), (2, 10))]

    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in range(given.rounds + 1):
        for name, act in (("ours", ours), ("theirs", theirs)):
            start = time.process_time()
            act(seed)
            if seed:
                times[name].append(time.process_time() - start)
    per_tile = {name: 1e3 * statistics.median(values) / len(images) for name, values in times.items()}
    print(
        f"views of one tile (2 x 224 + 8 x 96), one thread: Pillow {per_tile['theirs']:.1f} CPU-ms, "
        f"ours {per_tile['ours']:.1f} CPU-ms, ratio {per_tile['theirs'] / per_tile['ours']:.2f}"
    )


if __name__ == "__main__":
    main()
