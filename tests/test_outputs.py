"""Outputs: claimed once, resumed only with the same settings and inputs, overwritten only when ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from histogen.config import StageConfig, dump_config
from histogen.errors import ConfigError, OutputExistsError
from histogen.files import write_atomic
from histogen.pipelines.inspect import describe
from histogen.pipelines.outputs import claim_output, finish_output, is_complete, read_run


def test_the_life_of_an_output(tmp_path: Path) -> None:
    out = tmp_path / "run"
    claim_output(StageConfig(out=out), command="toy", inputs={"tiles": "a"})
    assert not is_complete(out)
    with pytest.raises(OutputExistsError, match="--resume"):
        claim_output(StageConfig(out=out), command="toy", inputs={"tiles": "a"})
    claim_output(StageConfig(out=out, resume=True), command="toy", inputs={"tiles": "a"})
    finish_output(out, tiles=3)
    assert is_complete(out)
    assert read_run(out)["results"] == {"tiles": 3}
    claim_output(StageConfig(out=out, overwrite=True, seed=9), command="toy")
    assert not is_complete(out)


def test_a_finished_output_keeps_nothing_of_killed_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    claim_output(StageConfig(out=out), command="toy")
    (out / "deep").mkdir()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            write_atomic(out / "deep" / "shard", b"half")
    assert len(list((out / "deep").iterdir())) == 1
    finish_output(out)
    assert list((out / "deep").iterdir()) == []
    assert is_complete(out)


class Later(StageConfig):
    """A command that has got a setting since."""

    added: int = 3


def test_a_setting_that_is_new_counts_as_its_default(tmp_path: Path) -> None:
    claim_output(StageConfig(out=tmp_path / "run"), command="toy")
    assert "added" not in dump_config(StageConfig(out=tmp_path / "run"))
    claim_output(Later(out=tmp_path / "run", resume=True), command="toy")
    with pytest.raises(ConfigError, match="added: 3 -> 4"):
        claim_output(Later(out=tmp_path / "run", resume=True, added=4), command="toy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"command": "other"}, "is an output of toy, not of other"),
        ({"inputs": "b"}, "tiles: a -> b"),
    ],
)
def test_resume_with_other_settings_is_refused_and_says_which(tmp_path: Path, change: dict, message: str) -> None:
    claim_output(StageConfig(out=tmp_path / "run"), command="toy", inputs={"tiles": "a"})
    config = StageConfig(out=tmp_path / "run", resume=True, seed=change.get("seed", 0))
    with pytest.raises(ConfigError, match=message):
        claim_output(config, command=change.get("command", "toy"), inputs={"tiles": change.get("inputs", "a")})


class Reads(StageConfig):
    """A command with inputs."""

    tiles: list[Path] = []
    init_from: str | None = None


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}, {}])
def test_what_another_command_made_is_neither_deleted_nor_offered_for_it(tmp_path: Path, how: dict) -> None:
    store = tmp_path / "images.zarr"
    claim_output(StageConfig(out=store), command="import-images")
    (store / "tiles").mkdir()
    with pytest.raises(ConfigError, match=r"images.zarr' is an output of import-images, not of pretrain; choose"):
        claim_output(StageConfig(out=store, **how), command="pretrain")
    assert (store / "tiles").exists()


@pytest.mark.parametrize("key", ["tiles", "init_from"])
@pytest.mark.parametrize("inner", ["", "encoder"])
def test_overwrite_deletes_no_input(tmp_path: Path, key: str, inner: str) -> None:
    out = tmp_path / "run"
    claim_output(Reads(out=out), command="toy")
    (out / "encoder").mkdir()
    read = str(out / inner)
    given = Reads(out=out, overwrite=True, **{key: read if key == "init_from" else [Path(read)]})
    with pytest.raises(ConfigError, match="--overwrite would delete '.*', which is to be read"):
        claim_output(given, command="toy")
    assert (out / "encoder").exists()
    claim_output(Reads(out=out, overwrite=True, tiles=[tmp_path / "elsewhere"]), command="toy")
    assert not (out / "encoder").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "run.json' is not JSON"), (b"[]", "holds no names and values"), (b"\xff", "is not JSON"),
        (b'{"results": 5}', "under 'results'"), (b'{"inputs": []}', "under 'inputs'"),
    ],
)  # fmt: skip
def test_a_record_that_somebody_changed_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    claim_output(StageConfig(out=tmp_path / "run"), command="toy")
    (tmp_path / "run" / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        claim_output(StageConfig(out=tmp_path / "run", resume=True), command="toy")
    with pytest.raises(ConfigError, match=message):
        describe(tmp_path / "run")


def test_a_config_that_somebody_changed_is_one_sentence(tmp_path: Path) -> None:
    claim_output(StageConfig(out=tmp_path / "run"), command="toy")
    for content, message in (
        (b"- 1", "holds [1], not keys"),
        (b"a: [", "is not YAML"),
        (b"\xff", "is not text in UTF-8"),
    ):
        (tmp_path / "run" / "config.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(message)):
            describe(tmp_path / "run")
