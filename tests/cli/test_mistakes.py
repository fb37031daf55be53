"""A beginner's mistakes: each is answered by one line that says what, where, and the very thing to type."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from histogen.cli.main import app, main

COMMANDS = sorted(command.name for command in app.registered_commands if command.name)


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> str:
    """What a command line is answered with, in this process: one line on standard error, exit 2, nothing else."""
    monkeypatch.setattr(sys, "argv", ["histogen", *map(str, words)])
    monkeypatch.setattr(os, "environ", {**os.environ})
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err.removeprefix("error: ").rstrip()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    return lambda *words: said(capsys, monkeypatch, *words)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_a_command_alone_says_what_it_needs_and_shows_an_example(say: Callable[..., str], command: str) -> None:
    text = say(command)
    assert text.startswith(f"histogen {command} needs ")
    assert f"; for example: histogen {command} " in text
    assert "--set" not in text.partition("; for example")[0]
    assert text.count("needs") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tile"], "histogen tile needs SLIDES… (slides, folders of slides, or manifests); for example: "),
        (["pretrain", "t"], "histogen pretrain needs --out RUN; for example: histogen pretrain demo/tiles --out "),
        (
            ["train-eldm", "t", "--out", "e"],
            "histogen train-eldm needs --encoder E and --autoencoder RUN; for example: histogen train-eldm demo/tiles ",
        ),
        (["export", "t"], "histogen export needs --out DIR and --format FORMAT; for example: "),
        (["run"], "histogen run needs CONFIG (YAML of the chain, such as configs/run/quick.yaml); for example: "),
        (["tlie"], "there is no command 'tlie'; did you mean 'histogen tile'"),
        (["pretrian", "t"], "there is no command 'pretrian'; did you mean 'histogen pretrain'"),
        (["xyzzy"], "there is no command 'xyzzy'; there are demo, run, inspect, plan, tile, "),
        (["--frob"], "histogen has no option '--frob'; 'histogen --help' lists them"),
        (["tile", "s", "--tilepx", "3"], "histogen tile has no option '--tilepx'; did you mean '--tile-px'; a "),
        (["pretrain", "t", "--lr", "3"], "histogen pretrain has no option '--lr'; 'histogen pretrain --help' lists"),
        (["inspect", "s", "--frob"], "histogen inspect has no option '--frob'; 'histogen inspect --help' lists them"),
        (["tile", "s", "--tile-px", "abc"], "--tile-px cannot be 'abc': give a whole number"),
        (["tile", "s", "--slide-mpp", "0,5"], "--slide-mpp cannot be '0,5': give a number"),
        (["tile", "s", "--mpp", "abc"], "'mpp' cannot be 'abc': give a number, 'native' or a list"),
        (["tile", "s", "--out"], "--out needs a value after it; see --help for what it can be"),
        (["run", "a", "b"], "histogen run takes CONFIG, and 'b' is too much; for example: histogen run "),
        (["demo", "x", "y"], "histogen demo takes no argument, and 'x y' is too much; for example: histogen demo"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read(say: Callable[..., str], words: list[str], text: str) -> None:
    assert say(*words).startswith(text)


def test_what_is_missing_may_stand_in_the_config_that_was_given(say: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("tile_px: 64\n")
    assert say("tile", "--config", "c.yaml").startswith("histogen tile needs SLIDES… (slides, ")
    assert ", or in c.yaml; for example: " in say("tile", "--config", "c.yaml")


@pytest.mark.parametrize("words", [(), ("--version",), ("tile", "--help")])
def test_help_is_no_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", ["histogen", *words])
    main()  # no exit but 0
    out, err = capsys.readouterr()
    assert "histogen" in out
    assert err == ""
