"""Starting from weights that are there: continue-pretraining, with a report of what was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from histogen.encoders.checkpoint import LoadReport, WeightsFile, check_complete, load_matching, read_weights
from histogen.encoders.registry import load_encoder
from histogen.errors import EncoderError
from histogen.ssl.networks import DinoNetwork
from histogen.ssl.teacher import copy_weights

ADVICE = "set model.name and model.arguments to its model, or take what fits with init_partial=true"
NOTHING = "set model.name and model.arguments to its model"


@dataclass(frozen=True)
class Start:
    """What a run started from: the keys of its weights, and the labels that made them."""

    report: LoadReport
    supervision: str

    def to_json(self) -> dict[str, Any]:
        """Return every key, loaded, missing and unexpected, as JSON values."""
        return {"sentence": self.report.sentence(), "supervision": self.supervision, **asdict(self.report)}


def start_from(spec: str, networks: tuple[DinoNetwork, DinoNetwork], *, partial: bool = False) -> Start:
    """Give student and teacher the backbone of encoder ``spec``; their heads stay as they are, new.

    A position embedding of another grid is resampled, and the report says so.

    Raises:
        EncoderError: there is no such encoder; nothing of it fits; or not all of it, and ``partial`` is false.
    """
    weights: Mapping[str, torch.Tensor]
    file = WeightsFile.parse(spec)
    if not file.path.is_file():  # NAME@FILE: a training needs the weights alone, not how pixels are prepared for NAME
        beside = WeightsFile.parse(spec.partition("@")[2])
        file = beside if beside.path.is_file() else file
    if file.mean is not None:
        raise EncoderError(
            f"'{spec}': a training normalises by itself; give the weights alone: "
            f"{replace(file, mean=None, std=None).at(file.path)}"
        )
    if file.path.is_file():
        weights, supervision = read_weights(file.path, key=file.key).state, "as its authors state"
    else:
        encoder = load_encoder(spec)
        weights, supervision = encoder.network.state_dict(), encoder.card.supervision
    student, teacher = networks
    report = load_matching(student.backbone, weights)
    if not partial or not report.loaded:
        check_complete(report, what=spec, advice=ADVICE if report.loaded else NOTHING)
    copy_weights(student, teacher)
    return Start(report, supervision)
