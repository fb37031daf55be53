"""A run keeps the arithmetic it was begun in, on whatever machine it goes on, and so does each synthetic tile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histogen.errors import ConfigError
from histogen.pipelines.embed import command as embed
from histogen.pipelines.embed.command import EmbedConfig
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as synthesize
from histogen.pipelines.train_autoencoder.command import AutoencoderTask, TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as train_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as train_eldm
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

from .conftest import TINY_AUTOENCODER, TINY_ELDM

OTHER = {"bfloat16": "float32", "float32": "bfloat16"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this machine be one on which ``auto`` stands for a given precision."""

    def be(precision: str) -> None:
        monkeypatch.setattr("histogen.training.precision._multiplies_bf16", lambda _: precision == "bfloat16")

    return be


def recorded(out: Path) -> str:
    return str(json.loads((out / "run.json").read_text())["precision"])


def cut_short(config: TrainAutoencoderConfig, monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    step = AutoencoderTask.step

    def interrupted(task: AutoencoderTask, number: int) -> Any:
        if number == at:
            raise KeyboardInterrupt
        return step(task, number)

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderTask, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_autoencoder(config)


@pytest.mark.parametrize("begun", ["bfloat16", "float32"])
def test_a_training_ends_as_it_was_begun_on_another_machine(
    make_sources: Callable[[Path], Path], tmp_path: Path, machine: Callable[[str], None], begun: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    values = {**TINY_AUTOENCODER, "tiles": [make_sources(tmp_path / "sources")], "device": "cpu"}
    whole, cut = (TrainAutoencoderConfig.model_validate({**values, "out": tmp_path / n}) for n in ("whole", "cut"))
    machine(begun)
    train_autoencoder(whole)
    cut_short(cut, monkeypatch, at=5)
    assert recorded(whole.out) == recorded(cut.out) == begun
    assert capsys.readouterr().err.count("begun in") == 0
    machine(OTHER[begun])
    train_autoencoder(cut.model_copy(update={"resume": True}))
    assert recorded(cut.out) == begun
    said = [line for line in capsys.readouterr().err.splitlines() if "begun in" in line]
    assert len(said) == 1
    assert f"'{cut.out}' was begun in {begun} and goes on in it" in said[0]
    assert "start again with --overwrite" in said[0]
    weights = "autoencoder/diffusion_pytorch_model.safetensors"
    assert (cut.out / weights).read_bytes() == (whole.out / weights).read_bytes()
    other = whole.model_copy(update={"out": tmp_path / "other"})
    train_autoencoder(other)
    assert (other.out / weights).read_bytes() != (whole.out / weights).read_bytes()


def test_float16_is_refused_on_a_cpu_before_anything_is_written(
    make_sources: Callable[[Path], Path], tmp_path: Path
) -> None:
    values = {**TINY_AUTOENCODER, "tiles": [make_sources(tmp_path / "sources")], "device": "cpu", "out": tmp_path / "x"}
    optim = {**TINY_AUTOENCODER["optim"], "precision": "float16"}
    with pytest.raises(ConfigError, match="'float16' needs a GPU"):
        train_autoencoder(TrainAutoencoderConfig.model_validate({**values, "optim": optim}))
    with pytest.raises(ConfigError, match="'float16' needs a GPU"):
        embed.run(EmbedConfig(tiles=[tmp_path / "sources"], encoder="colour", precision="float16", device="cpu"))
    assert not (tmp_path / "x").exists()


def test_embeddings_and_latents_are_finished_as_they_were_begun(
    make_sources: Callable[[Path], Path], tmp_path: Path, machine: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_sources(tmp_path / "sources")
    a = EmbedConfig(tiles=[tmp_path / "sources" / "A.zarr"], encoder="colour", device="cpu")
    machine("bfloat16")
    embed.run(a)
    machine("float32")
    both = a.model_copy(update={"tiles": [tmp_path / "sources"], "resume": True})
    embed.run(both)
    stores = TileSet.open_(tmp_path / "sources").stores
    rows = "embeddings/colour-histogram"
    assert [store.rows_attributes(rows)["precision"] for store in stores] == ["bfloat16", "bfloat16"]
    assert "begun in bfloat16 and goes on in it; this machine does not multiply" in capsys.readouterr().err
    embed.run(both)
    assert "begun in" not in capsys.readouterr().err  # nothing is left to do


@pytest.mark.parametrize("made_in", ["bfloat16", "float32"])
def test_a_synthetic_tile_is_recreated_in_what_it_was_made_in(
    make_sources: Callable[[Path], Path], tmp_path: Path, machine: Callable[[str], None], made_in: str
) -> None:
    common = {"tiles": [make_sources(tmp_path / "sources")], "device": "cpu"}
    machine(made_in)
    train_autoencoder(TrainAutoencoderConfig.model_validate({**common, **TINY_AUTOENCODER, "out": tmp_path / "ae"}))
    eldm = {**TINY_ELDM, "autoencoder": str(tmp_path / "ae"), "out": tmp_path / "eldm"}
    train_eldm(TrainEldmConfig.model_validate({**common, **eldm, "optim": {"steps": 4, "batch": 8}}))
    given = {**common, "eldm": tmp_path / "eldm"}
    synthesize(SynthesizeConfig.model_validate({**given, "out": tmp_path / "made"}))
    store, source = TileStore.open_(tmp_path / "made" / "A.zarr"), TileStore.open_(tmp_path / "sources" / "A.zarr")
    assert recorded(tmp_path / "eldm") == recorded(tmp_path / "made") == store.provenance["precision"] == made_in
    (latents,) = source.list_rows("latents")
    assert source.rows_attributes(f"latents/{latents}")["precision"] == made_in
    machine(OTHER[made_in])
    again = {**given, "out": tmp_path / "again.png", "recreate": f"{store.path}:7"}
    assert synthesize(SynthesizeConfig.model_validate(again)).results["same"]
    synthesize(SynthesizeConfig.model_validate({**given, "out": tmp_path / "other"}))
    assert recorded(tmp_path / "other") == OTHER[made_in]
    assert TileStore.open_(tmp_path / "other" / "A.zarr").read_payload(7) != store.read_payload(7)
