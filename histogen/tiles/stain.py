"""Stain normalisation with TIAToolbox, imported only when it is asked for: it takes seconds and brings torch."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from histogen.errors import ConfigError, MissingDependencyError
from histogen.tiles.spec import StainSettings

MAX_TARGET_PX = 10**8
MISSING = "TIAToolbox is not installed; run: pip install 'tiatoolbox>=2.1.3'"


def build_normaliser(settings: StainSettings) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that normalises one tile, uint8 [H, W, 3]; None when no method is set.

    A tile without enough stain to estimate anything from (empty glass) comes back as it is.

    Raises:
        ConfigError: the reference image cannot be read.
        MissingDependencyError: TIAToolbox is not installed.
    """
    if settings.method == "none" or settings.target is None:
        return None
    return functools.partial(_normalise, _fitted(settings.method, settings.target))


@functools.lru_cache(maxsize=2)
def _fitted(method: str, target: Path) -> Any:
    image = _read_target(target)
    if image is None:
        raise ConfigError(f"stain.target '{target}' cannot be read as an image; give a PNG or JPEG of tissue")
    try:
        from tiatoolbox.tools.stainnorm import get_normalizer
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
    normaliser = get_normalizer(method)
    try:
        normaliser.fit(np.ascontiguousarray(image[..., ::-1]))
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ConfigError(f"stain.target '{target}' has too little stained tissue ({error}); give another") from error
    return normaliser


def _read_target(target: Path) -> np.ndarray | None:
    """Return a reference, uint8 BGR [H, W, 3]; None of what is no image.

    Raises:
        ConfigError: it says that it is huge.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(target) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = MAX_TARGET_PX
    except (OSError, ValueError, SyntaxError):
        return None
    if width * height > MAX_TARGET_PX:
        raise ConfigError(f"stain.target '{target}' is too large for a reference; cut a piece of tissue from it")
    return cv2.imread(str(target), cv2.IMREAD_COLOR)


def _normalise(normaliser: Any, tile: np.ndarray) -> np.ndarray:
    try:
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(normaliser.transform(tile.copy()))
    except (ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        return tile


def stain_statistics(tile: np.ndarray) -> np.ndarray:
    """Return a tile's stains, float32 [8]: two vectors of optical density (R, G, B), then the 99th percentile of each.

    Macenko et al. (2009), through TIAToolbox; the vector with more red density, haematoxylin's, is first. NaN where the
    tile has too little stain to estimate anything from.

    Raises:
        MissingDependencyError: TIAToolbox is not installed.
    """
    try:
        from tiatoolbox.tools.stainextract import MacenkoExtractor
        from tiatoolbox.tools.stainnorm import StainNormalizer
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
    try:
        with np.errstate(all="ignore"):
            matrix = MacenkoExtractor().get_stain_matrix(tile.copy())
            strengths = np.percentile(StainNormalizer.get_concentrations(tile, matrix), 99, axis=0)
    except (ValueError, ZeroDivisionError, np.linalg.LinAlgError):
        return np.full(8, np.nan, np.float32)
    return np.concatenate([matrix.ravel(), strengths]).astype(np.float32)
