"""The settings of everything in this room; torch is not needed to read and check them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histogen.config import Settings

Share = Annotated[float, Field(gt=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=20)]
Quality = Annotated[int, Field(ge=1, le=100)]
TestName = Literal["knn", "linear", "simpleshot"]
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


class KnnSettings(Settings):
    """DINO's protocol, or UNI's."""

    protocol: Literal["dino", "uni"] = "dino"
    k: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class LinearSettings(Settings):
    """Penalties to choose from; with a single one, and in UNI's protocol, nothing is chosen."""

    protocol: Literal["logistic-lbfgs", "uni"] = "logistic-lbfgs"
    penalties: tuple[float, ...] = Field(default=PENALTIES, min_length=1)


class FewShotSettings(Settings):
    """SimpleShot from a few training tiles per class; no shots, no episodes."""

    shots: tuple[int, ...] = ()
    episodes: int = Field(default=1000, ge=2)


class RobustnessSettings(Settings):
    """Changes of the test tiles under which every test is taken again; the training tiles stay as they are."""

    stain: tuple[Share, ...] = (0.2,)
    """The optical density of each stain of a tile is scaled at random by up to this share."""
    blur: tuple[Sigma, ...] = ()
    """Standard deviations of a Gaussian, in pixels of the tile."""
    jpeg: tuple[Quality, ...] = ()
    """Qualities at which tiles are compressed once more (4:2:0)."""


class JudgeSettings(Settings):
    """Which tests, and how they resample."""

    tests: tuple[TestName, ...] = Field(default=("knn", "linear", "simpleshot"), min_length=1)
    knn: KnnSettings = KnnSettings()
    linear: LinearSettings = LinearSettings()
    few_shot: FewShotSettings = FewShotSettings()
    robustness: RobustnessSettings = RobustnessSettings()
    retrieval: bool = False
    """Also the mean average precision of training tiles of the same class; it sorts all of them per test tile."""
    draws: int = Field(default=1000, ge=100)
    """Bootstrap draws and permutations."""


class MilSettings(Settings):
    """How slides are learned; see the module for where the values come from."""

    folds: int = Field(default=5, ge=2)
    epochs: int = Field(default=40, ge=1)
    hidden: int = Field(default=128, ge=1)
    attention: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.25, ge=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    max_tiles: int = Field(default=1024, ge=1)
    """Tiles of a slide in one training step, drawn anew each time; a prediction takes all of them."""


class FidelitySettings(Settings):
    """How sets are compared."""

    max_tiles: int = Field(default=10_000, ge=10)
    """Tiles of a set that are compared at most, drawn at random; the Fréchet distance depends on their number."""
    k: int = Field(default=5, ge=1)
    """Neighbours that span the manifolds; 5 is Naeem's value."""
    kernel_subsets: int = Field(default=100, ge=1)
    kernel_subset_size: int = Field(default=1000, ge=2)
    """At most half of the smaller set is taken: subsets that are the whole set would have no spread."""
    copy_quantile: float = Field(default=0.01, gt=0, lt=0.5)
    """A tile is flagged as a copy when it is nearer to training than this share of held-out real tiles are."""
