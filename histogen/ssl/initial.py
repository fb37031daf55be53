"""Starting from weights that are there: continue-pretraining, with a report of what was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from histogen.encoders.base import load_encoder
from histogen.encoders.checkpoint import LoadReport, load_matching, read_weights
from histogen.ssl.networks import DinoNetwork
from histogen.ssl.teacher import copy_weights


def start_from(spec: str, networks: tuple[DinoNetwork, DinoNetwork]) -> LoadReport:
    """Give student and teacher the backbone of encoder ``spec``; their heads stay as they are, new.

    A position embedding of another grid is resampled, and the report says so.

    Raises:
        EncoderError: there is no such encoder.
    """
    weights: Mapping[str, torch.Tensor]
    if Path(spec).is_file():
        weights = read_weights(Path(spec))
    else:
        weights = load_encoder(spec).backbone.state_dict()
    student, teacher = networks
    report = load_matching(student.backbone, weights)
    copy_weights(student, teacher)
    return report
