"""Steps of tissue detection, as histogen takes them with OpenCV and as scikit-image does: milliseconds, and equality.

    python benchmarks/libraries.py [--height 2400 --width 3000] [--repeats 5]

The mask is noise of two scales: pieces and holes of every size, and thousands of specks.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
from common import best, machine
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops_table
from skimage.morphology import closing, isotropic_closing, remove_small_objects

from histogen.tiles import tissue

AREA = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=2400)
    parser.add_argument("--width", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(machine("opencv-python", "scikit-image"))
    generator = np.random.default_rng(0)
    coarse = cv2.GaussianBlur(generator.normal(size=(options.height, options.width)).astype(np.float32), (0, 0), 12)
    mask = (coarse > 0.02 * coarse.std()) ^ (generator.random(coarse.shape) < 0.01)
    grey = np.clip(200 + 40 * coarse / coarse.std(), 0, 255).astype(np.uint8)
    steps: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("threshold (Otsu)", lambda: tissue._otsu(grey), lambda: float(threshold_otsu(grey))),
        ("closing, 5 px", lambda: tissue._closed(mask, 5), lambda: _closed_by_skimage(mask)),
        ("closing, 5 px, by distances", lambda: tissue._closed(mask, 5), lambda: isotropic_closing(mask, 5)),
        (
            "dropping small pieces", lambda: tissue.drop_small(mask, AREA),
            lambda: remove_small_objects(mask, max_size=AREA - 1, connectivity=2),
        ),
        (
            "filling holes, region properties", lambda: tissue.fill_holes(mask, AREA),
            lambda: _fill_by_regions(mask, AREA),
        ),
    ]  # fmt: skip
    for name, own, theirs in steps:
        ours, others = (best(lambda work=work: work(), options.repeats).cpu * 1e3 for work in (own, theirs))
        same = np.array_equal(np.asarray(own()), np.asarray(theirs()))
        print(
            f"{name:<34s} OpenCV {ours:7.0f} ms   scikit-image {others:7.0f} ms   {'equal' if same else 'not the same'}"
        )
    print(f"import of skimage.morphology: {_import_seconds():.1f} s")


def _closed_by_skimage(mask: np.ndarray) -> np.ndarray:
    return closing(np.pad(mask, 6, mode="edge"), tissue._disk(5), mode="ignore")[6:-6, 6:-6]


def _import_seconds() -> float:
    """CPU seconds that a process spends on importing scikit-image's morphology, which tiling does not need."""
    said = "import time, cv2, numpy; t = time.process_time(); import skimage.morphology; print(time.process_time() - t)"
    runs = [subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True) for _ in range(3)]
    return min(float(run.stdout) for run in runs)


def _fill_by_regions(mask: np.ndarray, max_area: float) -> np.ndarray:
    labels = label(~mask, connectivity=1)
    table = regionprops_table(labels, properties=("label", "area", "bbox"))
    inside = (table["bbox-0"] > 0) & (table["bbox-1"] > 0)
    inside &= (table["bbox-2"] < mask.shape[0]) & (table["bbox-3"] < mask.shape[1])
    small = np.zeros(labels.max() + 1, bool)
    small[table["label"]] = inside & (table["area"] <= max_area)
    return mask | small[labels]


if __name__ == "__main__":
    main()
