"""Stains are normalised and estimated as TIAToolbox itself does it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from histogen.tiles.spec import StainSettings
from histogen.tiles.stain import build_normaliser, stain_statistics

pytestmark = pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def stained(seed: int, strength: float, *, apart: bool = False) -> np.ndarray:
    """A tile of two stains at varying densities, uint8 [64, 64, 3]; ``apart``: one left, the other right."""
    amounts = cv2.GaussianBlur(np.random.default_rng(seed).random((64, 64, 2)), (0, 0), 2)
    amounts = strength * (amounts - amounts.min()) / np.ptp(amounts)
    if apart:
        amounts = np.where(np.arange(64)[:, None] < 32, [1, 0], [0, 1]) * (0.3 + amounts)
    density = amounts[..., :1] * HAEMATOXYLIN + amounts[..., 1:] * EOSIN
    return (255 * np.exp(-density)).round().astype(np.uint8)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_a_normalised_tile_is_tiatoolbox_s(tmp_path: Path, method: str) -> None:
    from tiatoolbox.tools.stainnorm import get_normalizer

    target, tile = stained(0, 1.5), stained(1, 0.8)
    cv2.imwrite(str(tmp_path / "target.png"), target[..., ::-1])
    normalise = build_normaliser(StainSettings.model_validate({"method": method, "target": tmp_path / "target.png"}))
    theirs = get_normalizer(method)
    theirs.fit(target)
    assert normalise is not None
    np.testing.assert_array_equal(normalise(tile), theirs.transform(tile.copy()))
    assert np.abs(normalise(tile).astype(int) - tile).mean() > 5


def test_stains_are_those_the_tile_was_made_of() -> None:
    first, second, strengths = np.split(stain_statistics(stained(2, 1.2, apart=True)), [3, 6])
    for found, true in ((first, HAEMATOXYLIN), (second, EOSIN)):
        assert found @ true / np.linalg.norm(true) > 0.98
    assert (strengths > 0.5).all()
