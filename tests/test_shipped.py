"""Configs are found by path and by the name they are shipped under, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from histogen.errors import ConfigError
from histogen.pipelines.configs import describe
from histogen.shipped import find_config, shipped_configs

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("name", ["pretrain/demo.yaml", "pretrain/demo", "run/quick.yaml"])
def test_shipped_configs_are_found_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = (CONFIGS / name).with_suffix(".yaml").read_bytes()
    assert find_config(name).read_bytes() == expected


def test_a_file_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "demo.yaml").write_text("seed: 7")
    assert find_config("pretrain/demo.yaml").read_text() == "seed: 7"


@pytest.mark.parametrize("name", ["none.yaml", "pretrain", "../pyproject.toml", "pretrain/../../pyproject.toml"])
def test_what_is_neither_is_a_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "(did you mean [a-z]|histogen configs lists)"
    with pytest.raises(ConfigError, match=f"neither as a file nor among the shipped ones; {hint}"):
        find_config(name)


def test_every_config_is_listed_with_what_it_is_for() -> None:
    files = sorted(CONFIGS.glob("*/*.yaml"))
    assert [file.read_bytes() for file in shipped_configs().values()] == [file.read_bytes() for file in files]
    lines = describe(None).summary.splitlines()
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[: len(files)]}
    assert list(said) == [f"{file.parent.name}/{file.stem}" for file in files]
    assert [name for name, text in said.items() if not 15 <= len(text) <= 100 or text.startswith("histogen ")] == []
    assert said["pretrain/one_gpu"] == "DINO's recipe on one GPU"


def test_one_command_and_one_config() -> None:
    assert [line.split()[0] for line in describe("tile").summary.splitlines() if line.startswith("tile/")] == [
        f"tile/{file.stem}" for file in sorted(CONFIGS.glob("tile/*.yaml"))
    ]
    assert describe("tile/demo").summary == (CONFIGS / "tile" / "demo.yaml").read_text().rstrip()
    with pytest.raises(ConfigError, match="did you mean tile/demo"):
        describe("tile/dmeo")
