"""Two processes (gloo) train what one trains on the same global batch: autoencoder and E-LDM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from histogen.errors import ConfigError
from histogen.pipelines.train_autoencoder import command as train_autoencoder
from histogen.pipelines.train_eldm import command as train_eldm
from histogen.training.journal import read_journal

from .conftest import TINY_AUTOENCODER, TINY_ELDM

SCRIPT = """
import sys
from histogen.pipelines.train_autoencoder import command as train_autoencoder
from histogen.pipelines.train_eldm import command as train_eldm
for module, config, values in ((train_autoencoder, train_autoencoder.TrainAutoencoderConfig, sys.argv[1]),
                               (train_eldm, train_eldm.TrainEldmConfig, sys.argv[2])):
    module.run(config.model_validate_json(values))
"""


def configs(sources: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    shared = {"tiles": [str(sources)], "device": "cpu", "log_every": 1}
    exact = {"steps": 6, "batch": 8, "lr": 0.002, "warmup": 2, "precision": "float32"}
    autoencoder = {**TINY_AUTOENCODER, **shared, "out": str(out / "autoencoder"), "optim": exact}
    eldm = {
        **TINY_ELDM, **shared, "autoencoder": str(out / "autoencoder"), "out": str(out / "eldm"),
        "optim": {**exact, "accumulate": 2},
    }  # fmt: skip
    return autoencoder, eldm


def test_two_processes_train_what_one_trains(
    make_sources: Callable[[Path], Path], launch: Callable[..., None], tmp_path: Path
) -> None:
    one, two = (configs(make_sources(tmp_path / name / "sources"), tmp_path / name) for name in ("one", "two"))
    train_autoencoder.run(train_autoencoder.TrainAutoencoderConfig.model_validate(one[0]))
    train_eldm.run(train_eldm.TrainEldmConfig.model_validate(one[1]))
    launch(2, SCRIPT, *map(json.dumps, two))
    for stage in ("autoencoder", "eldm"):
        rows = [read_journal(tmp_path / name / stage / "metrics.jsonl") for name in ("one", "two")]
        assert len(rows[0]) == len(rows[1]) == 6
        for a, b in zip(*rows, strict=True):
            assert a.keys() == b.keys()
            assert {k: v for k, v in a.items() if k != "seconds"} == pytest.approx(b, rel=2e-3, abs=1e-6), stage
        assert rows[0][0]["loss"] != pytest.approx(rows[0][-1]["loss"], rel=1e-3), "nothing moved"
    unets = [load_file(next((tmp_path / name / "eldm/pipeline/unet").glob("*.safetensors"))) for name in ("one", "two")]
    for key, value in unets[0].items():
        # Adam divides by the root of tiny second moments: rounding of the sums may move a weight by part of one step
        assert (value - unets[1][key]).abs().max() < 2e-3, key


def test_a_batch_that_does_not_split_is_a_sentence(
    make_sources: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.training.processes.world_size", lambda: 3)
    values = configs(make_sources(tmp_path / "sources"), tmp_path)[0]
    with pytest.raises(ConfigError, match=r"optim\.batch 8 does not split evenly over 3 processes"):
        train_autoencoder.run(train_autoencoder.TrainAutoencoderConfig.model_validate(values))
    assert not (tmp_path / "autoencoder").exists()
