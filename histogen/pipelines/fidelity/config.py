"""The settings of ``histogen fidelity``; torch is not needed to read and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from histogen.config import BulkConfig, Precision, StorePath
from histogen.evaluation.settings import FidelitySettings


class FidelityConfig(BulkConfig):
    """Which synthetic sets, against which real tiles, seen by which encoders."""

    tiles: list[StorePath] = Field(min_length=1)
    """The real tiles that the E-LDM was trained on and the synthetic tiles were made from."""
    train_where: dict[str, Any] = {}
    """Which of ``tiles`` trained it, by column, for example ``{split: train}``; all of them by default."""
    held_out: list[StorePath] = Field(min_length=1)
    """Real tiles that it was not trained on; may be the same stores when ``train_where`` tells them apart."""
    held_out_where: dict[str, Any] = {}
    """Which of ``held_out`` to take, for example ``{split: test}``."""
    synthetic: list[str] = Field(min_length=1)
    """Folders of ``synthesize``, as ``DIR`` or ``NAME=DIR``."""
    encoders: list[str] = Field(min_length=1)
    """Encoders that look at the tiles, as ``SPEC`` or ``NAME=SPEC``; more than one is wise."""
    eldm: Path | None = None
    """The ``train-eldm`` run that made the synthetic tiles: the page then shows tiles made on the spot, and
    unconditional tiles are a baseline."""
    precision: Precision = "auto"
    """Arithmetic of encoders, where embeddings are missing; auto is bfloat16 where the hardware multiplies it."""
    compare: FidelitySettings = FidelitySettings()
