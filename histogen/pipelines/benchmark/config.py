"""The settings of ``histogen benchmark``; torch is not needed to read and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from histogen.config import BulkConfig, Precision, StorePath
from histogen.evaluation.settings import JudgeSettings, MilSettings


class BenchmarkConfig(BulkConfig):
    """Which tiles, which encoders, which tests."""

    tiles: list[StorePath] = Field(min_length=1)
    """Tile stores with a column of labels."""
    encoders: list[str] = Field(min_length=1)
    """Encoders as ``SPEC`` or ``NAME=SPEC``; a difference is a later one minus an earlier one. ``NAME#1=…``,
    ``NAME#2=…`` are runs of one recipe with different seeds: they are averaged, and recipes compared."""
    label: str = "label"
    """The categorical column to tell."""
    group: str = "group"
    """The categorical column of groups (patients, photographs) that must not be split; without it, the slides."""
    split: Literal["auto", "column", "slide", "tile"] = "auto"
    """``column`` takes the column ``split`` (train, test); ``slide`` whole slides or groups; ``tile`` single tiles."""
    test_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the slides (or tiles) that test, where no split is given."""
    allow_leaks: bool = False
    """Judge although the column ``split`` has a group, or the same bytes, in training and in the test; it is noted."""
    precision: Precision = "auto"
    """Arithmetic of encoders, where embeddings are missing; auto is bfloat16 where the hardware multiplies it."""
    embed_batch: int = Field(default=64, ge=1)
    """Tiles per forward pass where embeddings are missing."""
    judge: JudgeSettings = JudgeSettings()
    slide_labels: Path | None = None
    """A CSV with columns slide_id and label: whole slides are judged (ABMIL), in place of tiles."""
    mil: MilSettings = MilSettings()
