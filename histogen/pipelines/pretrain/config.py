"""The settings of ``histogen pretrain``; torch is not needed to read and check them."""

from __future__ import annotations

from pydantic import Field

from histogen.config import ChosenTiles, StageConfig, StorePath
from histogen.ssl.settings import SslSettings


class PretrainConfig(StageConfig, ChosenTiles, SslSettings):
    """What ``histogen pretrain`` understands besides the settings of the method."""

    generative: StorePath | None = None
    """Generative stores of these tiles: pair views."""
    interpolated: StorePath | None = None
    """Interpolated stores of these tiles: the disentanglement loss."""
    init_from: str | None = None
    """Start from the weights of this encoder (a run, ``timm:NAME``, a DINO or DINOv2 ``.pth``), not from nothing."""
    init_partial: bool = False
    """Take what fits of ``init_from`` and leave the rest; otherwise a partial load is an error."""
    workers: int = Field(default=2, ge=0)
    """Threads that decode tiles ahead of the step; 0 decodes when asked. No result depends on it."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; an epoch, but at most 1,000 steps, when not given."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that are kept."""
    log_every: int = Field(default=10, ge=1)
    """Steps in one row of ``metrics.jsonl``."""
    monitor_label: str | None = None
    """A column of labels that only the journal looks at: ``knn`` is how often a tile's nearest other tile of its batch
    has its label. Nothing is trained with it."""
    tensorboard: bool = False
    """Write the same rows for TensorBoard, into ``out/tensorboard`` (``pip install 'histogen[tensorboard]'``)."""
