"""Two processes (gloo) do what one does on the same global batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histogen.pipelines.pretrain import command as pretrain
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore
from histogen.training.journal import read_journal

SETTINGS = {
    "model": {
        "name": "vit_tiny_patch16_224", "drop_path": 0.4,
        "arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
        "prototypes": 32, "head_hidden": 32, "head_bottleneck": 16,
    },
    "crops": {"global_px": 16, "local_px": 8, "num_local": 2},
    "optim": {"num_steps": 6, "batch": 8, "lr": 2e-2, "warmup_epochs": 0, "precision": "float32", "epochs": 1},
    "log_every": 1, "checkpoint_every": 3, "workers": 0,
}  # fmt: skip


def make_store(path: Path, kind: str = "slide") -> None:
    rng, number = np.random.default_rng(0 if kind == "slide" else 1), 16
    columns = {}
    if kind == "interpolated":
        same = Column(np.zeros(number, np.int32), ["s"])
        columns = {
            "source_store": same, "source_index": np.arange(number), "partner_store": same,
            "partner_index": np.arange(number) ^ 1, "alpha": np.linspace(0.2, 0.8, number).astype(np.float32),
        }  # fmt: skip
    store = TileStore.create(
        path, kind=kind, store_id=path.stem, tile_px=16, mpp=0.5, num_tiles=number, provenance={}, columns=columns
    )
    payloads = [encode_jpeg(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(number)]
    store.commit("tiles", 0, store.write_tiles(0, payloads))


SCRIPT = """
import sys
from histogen.pipelines.pretrain import command as pretrain
pretrain.run(pretrain.PretrainConfig.model_validate_json(sys.argv[1]))
"""


BEYOND = {
    "mean": {"loss": {"koleo": 0.1, "uniformity": 0.05}, "masks": {"weight": 1.0}},
    "sinkhorn": {"loss": {"centre": "sinkhorn"}, "masks": {"weight": 1.0}},
}


@pytest.mark.parametrize("options", [{}, BEYOND["mean"], BEYOND["sinkhorn"]], ids=["dino", "beyond", "sinkhorn"])
def test_two_processes_equal_one_and_resume_exactly(launch: Callable[..., None], tmp_path: Path, options: dict) -> None:
    make_store(tmp_path / "s.zarr")
    make_store(tmp_path / "int" / "i.zarr", "interpolated")

    def settings_for(folder: Path, out: Path) -> dict:
        stores = {"tiles": [str(folder / "s.zarr")], "interpolated": str(folder / "int")}
        return {**SETTINGS, **options, **stores, "out": str(out)}

    single, double, again = (tmp_path / name / "run" for name in ("single", "double", "again"))
    pretrain.run(pretrain.PretrainConfig.model_validate(settings_for(tmp_path, single)))
    launch(2, SCRIPT, json.dumps(settings_for(tmp_path, double)))
    one, two = (read_journal(out / "metrics.jsonl") for out in (single, double))
    assert len(one) == len(two) == 6
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["centre_norm"] == pytest.approx(b["centre_norm"], rel=1e-4)
    assert one[0]["loss"] != pytest.approx(one[-1]["loss"], rel=1e-4), "nothing moved"
    leave_as_killed(double, again)
    launch(2, SCRIPT, json.dumps({**settings_for(tmp_path, again), "resume": True}))
    for name in ("encoder/model.safetensors", "metrics.jsonl"):
        assert (again / name).read_bytes() == (double / name).read_bytes(), name


def leave_as_killed(finished: Path, out: Path) -> None:
    """Copy a finished run to what a kill after step 3 leaves: the checkpoint of step 3, and no end."""
    shutil.copytree(finished, out)
    (out / "checkpoints" / "step-00000006.json").unlink()
    shutil.rmtree(out / "encoder")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "started"}))


REFUSED = """
import os, sys
from histogen.errors import OutputExistsError
from histogen.pipelines.pretrain import command as pretrain
try:
    pretrain.run(pretrain.PretrainConfig.model_validate_json(sys.argv[1]))
except OutputExistsError:
    sys.exit(0 if int(os.environ["RANK"]) == 0 else 7)
except SystemExit as end:
    sys.exit(0 if end.code == 2 and int(os.environ["RANK"]) == 1 else 8)
sys.exit(9)
"""


def test_what_the_first_process_refuses_ends_the_others_without_a_traceback(
    launch: Callable[..., None], tmp_path: Path
) -> None:
    make_store(tmp_path / "s.zarr")
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text("{}")
    launch(2, REFUSED, json.dumps({**SETTINGS, "tiles": [str(tmp_path / "s.zarr")], "out": str(out)}))
    assert [path.name for path in out.iterdir()] == ["config.yaml"]
