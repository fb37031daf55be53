"""Configs are found by path and by the name they are shipped under, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from histogen.errors import ConfigError
from histogen.shipped import find_config

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
    with pytest.raises(
        ConfigError,
        match="does not exist, neither as a file nor among the shipped ones; (did you mean [a-z]|configs/README)",
    ):
        find_config(name)
