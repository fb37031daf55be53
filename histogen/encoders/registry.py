"""The one door to encoders: what a user may write, and who loads it.

A run folder of ``histogen pretrain``, a folder that timm exported, the name of a published encoder (``uni2``,
``uni2@weights``), a user's own card (``card.yaml``, ``card.yaml@weights``), ``timm:NAME``, ``timm:NAME@weights``,
``transformers:FOLDER``, ``random:NAME``, ``colour``, or a DINO or DINOv2 ``.pth`` file. Behind a file, ``#student``
takes these weights where it holds several, and ``#mean:R,G,B#std:R,G,B`` is the normalisation that they were trained
with, of pixels in 0–1.
"""

from __future__ import annotations

from pathlib import Path

import torch

from histogen.encoders.base import Encoder
from histogen.encoders.carded import is_card, load_carded
from histogen.encoders.checkpoint import WeightsFile
from histogen.encoders.dino import load_dino
from histogen.encoders.published import near_names
from histogen.encoders.timm import load_export
from histogen.errors import EncoderError
from histogen.files import read_json
from histogen.names import resolve
from histogen.training.weights import usable

ENCODERS = {
    "timm": "histogen.encoders.timm:load_timm",
    "transformers": "histogen.encoders.carded:load_transformers",
    "random": "histogen.encoders.timm:load_random",
    "colour": "histogen.encoders.tiny:load_colour",
}
"""Word before the colon of a spec, to the function that loads it from the rest of the spec."""


def load_encoder(spec: str | Path, device: torch.device | str = "cpu") -> Encoder:
    """Return the encoder that ``spec`` names, on ``device``.

    Raises:
        EncoderError: there is no such folder, file or name, or its weights cannot be used.
    """
    with usable(f"encoder '{spec}'"):
        return _load(spec, device)


def _load(spec: str | Path, device: torch.device | str) -> Encoder:
    kind, _, rest = str(spec).partition(":")
    if kind in ENCODERS:
        return resolve(ENCODERS, kind, what="encoder")(rest).to(device)
    if is_card(str(spec)):
        return load_carded(str(spec)).to(device)
    path = Path(spec)
    if path.is_dir():
        return _load_folder(path).to(device)
    file = WeightsFile.parse(str(spec))
    if file.path.is_file():
        return load_dino(file).to(device)
    raise EncoderError(
        f"encoder '{spec}' is neither a folder nor a file nor one of {', '.join(f'{kind}:…' for kind in ENCODERS)}; "
        "give a run of `histogen pretrain`, timm:NAME, or a .pth file; of published encoders, "
        f"{near_names(str(spec).partition('@')[0])}"
    )


def absolute_spec(spec: str) -> str:
    """Return ``spec`` with the file or folder in it as a path that holds in a worker's folder too."""
    head, at, given = spec.rpartition("@")
    file = WeightsFile.parse(given)
    if head.endswith((".yaml", ".yml")) and Path(head).is_file():
        head = str(Path(head).resolve())
    kind, colon, folder = spec.partition(":")
    if kind == "transformers" and Path(folder).is_dir():
        return f"{kind}{colon}{Path(folder).resolve()}"
    if not file.path.exists():
        return str(Path(spec).resolve()) if Path(spec).exists() else spec
    return f"{head}{at}{file.at(file.path.resolve())}"


def _load_folder(path: Path) -> Encoder:
    if (path / "encoder" / "config.json").is_file():
        return load_export(path / "encoder", name=path.resolve().name)
    if (path / "config.json").is_file():
        return load_export(path, name=path.resolve().name)
    record = path / "run.json"
    made_by = read_json(record).get("command") if record.is_file() else None
    if made_by not in (None, "pretrain"):
        raise EncoderError(f"'{path}' is an output of {made_by}, not an encoder; give a run of `histogen pretrain`")
    if (path / "checkpoints").is_dir():
        raise EncoderError(f"run '{path}' has no encoder yet: its training is not finished; finish it with --resume")
    raise EncoderError(f"folder '{path}' holds no encoder (no config.json); give a run of `histogen pretrain`")
