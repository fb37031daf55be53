"""The cards of published encoders: everything that decides their features, as data, and what their licences say.

A card is a YAML file; those that come with histogen lie in ``cards/``, and a user's own has the same keys. torch is not
needed to read them.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from histogen.config import Settings, load_config
from histogen.errors import EncoderError

FOLDER = Path(__file__).parent / "cards"
Channel = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]
Feature = Literal["pooled", "cls", "cls+mean", "pooler", "stage3"]


class PublishedCard(Settings):
    """What must be known of an encoder to get the features that its authors publish."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """What a user writes; with the weights' digest, the key of the embeddings."""
    loader: Literal["timm", "timm-config", "transformers", "package"]
    """``timm``: ``architecture`` and ``arguments`` say all, the weights are one file. ``timm-config``: the
    architecture, its size and normalisation stand in the repository's ``config.json``. ``transformers``: a model
    folder of that library. ``package``: another package is needed, so that it cannot be loaded here."""
    hub: str | None = None
    """Repository of the hub."""
    file: str | None = None
    """The file of weights in it, for ``timm``."""
    needs: str = ""
    """For ``package``: what it needs, in words."""
    architecture: str | None = None
    """A model of timm, or a class of transformers."""
    arguments: dict[str, Any] = {}
    """Passed to timm; ``SwiGLUPacked`` and ``SiLU`` are the layers of these names."""
    resize_px: int | None = Field(default=None, ge=1)
    """Side that a tile is resized to before the centre is cut out; null resizes to ``image_px``."""
    image_px: int = Field(default=224, ge=1)
    """Side of what the network sees."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Antialiased, as Pillow's."""
    mean: tuple[Channel, Channel, Channel] | None = None
    std: tuple[Spread, Spread, Spread] | None = None
    """Normalisation per channel, of pixels in 0-1; needed but by ``timm-config``."""
    feature: Feature = "cls"
    """``cls``: the class token after the last norm. ``cls+mean``: it, then the mean of the patches' tokens; registers
    are left out. ``pooler``, ``pooled``: what the model itself pools. ``stage3``: the mean of a convolutional network's
    third stage."""
    registers: int = Field(default=0, ge=0)
    """Register tokens behind the class token, for ``transformers``; timm's models know theirs."""
    dim: int = Field(ge=1)
    """Length of an embedding."""
    mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel of the tiles that it was made for; null where it was made for several."""
    tile_px: int | None = Field(default=None, ge=1)
    """Their side."""
    licence: str
    """As its repository states it."""
    gated: bool = False
    """Whether the repository gives its files only to who has logged in and agreed to its terms."""
    forbids: str = ""
    """What the licence does not allow, in short."""
    supervision: str = "none"
    """What labels, if any, made the weights."""
    paper: str = ""

    @model_validator(mode="after")
    def _says_enough(self) -> PublishedCard:
        needed = {
            "timm": ("architecture", "mean", "std"),
            "timm-config": ("hub",),
            "transformers": ("architecture", "mean", "std"),
            "package": ("needs",),
        }[self.loader]
        for key in needed:
            if not getattr(self, key):
                raise ValueError(f"a card with loader {self.loader} needs {key}; add what its authors publish")
        if self.resize_px is not None and self.resize_px < self.image_px:
            raise ValueError(
                f"resize_px {self.resize_px} is less than image_px {self.image_px}; nothing can be cut out"
            )
        return self


@cache
def published_names() -> tuple[str, ...]:
    """Return the names of the cards that come with histogen, in order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def published_card(name: str) -> PublishedCard:
    """Return the shipped card ``name``.

    Raises:
        EncoderError: there is none; the message has the nearest names.
    """
    if name not in published_names():
        raise EncoderError(f"there is no card of an encoder '{name}'; {near_names(name)}")
    return load_config(PublishedCard, file=FOLDER / f"{name}.yaml")


def near_names(name: str) -> str:
    """Return what to type where ``name`` is no published encoder."""
    near = difflib.get_close_matches(name.lower(), published_names(), n=2)
    return f"did you mean {' or '.join(near)}" if near else "`histogen encoders` lists these"


def own_card(path: Path) -> PublishedCard:
    """Return the card that a user wrote.

    Raises:
        ConfigError: it is not one; the message says which key.
    """
    return load_config(PublishedCard, file=path)


def similar_names(architecture: str) -> list[str]:
    """Return the cards of encoders that have this architecture of timm, whatever its weights are tagged."""
    base = architecture.partition(".")[0]
    return [name for name in published_names() if (published_card(name).architecture or "").partition(".")[0] == base]
