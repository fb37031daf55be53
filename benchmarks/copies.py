"""Are copies found among real tiles? Planted ones, 1 %, in tiles that the "generator" did not copy.

    histogen import-images tiles_crc5 --out crc5.zarr
    python benchmarks/copies.py crc5.zarr [--contamination 0.01]

Half of the tiles of split `train` play the training set, the other half tiles made anew, and split `test` the held-out
tiles. The copies are flipped or turned, shifted by up to 6 pixels, restained by up to 7 %, noised (6 grey levels) and
compressed as JPEG. Also said: how many of the "new" tiles are in truth duplicates within the data set.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import Clock, machine

from histogen.evaluation import memorisation
from histogen.store.jpeg import decode_jpeg, encode_jpeg
from histogen.store.tile_set import TileSet, open_tiles

DUPLICATE = 0.02


def described(tiles: TileSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    layouts = memorisation.describe_all(tiles.read_tiles(rows[i : i + 256]) for i in range(0, len(rows), 256))
    judged = memorisation.has_layout(layouts)
    return rows[judged], layouts[judged]


def copied(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    copy = np.rot90(tile, rng.integers(4))
    copy = copy[:, ::-1] if rng.random() < 0.5 else copy
    copy = np.roll(copy, rng.integers(-6, 7, 2), (0, 1)) * rng.uniform(0.93, 1.07, 3)
    copy = np.clip(copy + rng.normal(0, 6, copy.shape), 0, 255).astype(np.uint8)
    return decode_jpeg(encode_jpeg(copy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--contamination", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(machine("torch", "numpy"))
    tiles, rng = open_tiles(arguments.store), np.random.default_rng(arguments.seed)
    names, codes = tiles.categories("split"), tiles.column("split")
    train = rng.permutation(np.flatnonzero(codes == names.index("train")))
    half = len(train) // 2
    train_rows, layouts = described(tiles, train[:half])
    _, fresh = described(tiles, train[half:])
    _, held_out = described(tiles, np.flatnonzero(codes == names.index("test")))
    num = max(1, round(arguments.contamination * len(fresh) / (1 - arguments.contamination)))
    chosen = rng.choice(len(train_rows), num, replace=False)
    planted = memorisation.layout_descriptor(np.stack([copied(t, rng) for t in tiles.read_tiles(train_rows[chosen])]))
    with Clock() as clock:
        scores = memorisation.copy_scores(np.concatenate([fresh, planted]), layouts)
    ratio, is_planted = scores.ratio, np.arange(len(scores.ratio)) >= len(fresh)
    duplicates = ~is_planted & (ratio < DUPLICATE)
    report = memorisation.report_copies(scores, memorisation.copy_scores(held_out, layouts))
    area = memorisation.area_under_curve(-ratio[is_planted], -ratio[~is_planted])
    without = memorisation.area_under_curve(-ratio[is_planted], -ratio[~is_planted & ~duplicates])
    right = (scores.nearest[is_planted] == chosen).mean()
    print(f"{num} copies among {len(ratio):,} tiles, {len(layouts):,} training tiles: {clock.cpu:.1f} CPU-s")
    print(f"AUC {area:.4f}; {without:.4f} without {duplicates.sum()} duplicates that the data set itself holds")
    print(f"source named rightly: {100 * right:.0f} %; flagged by the report: {report.flagged_share:.3f} of all")
    print(f"new tiles nearer to training than held-out ones are, probability: {report.closer:.3f}")


if __name__ == "__main__":
    main()
