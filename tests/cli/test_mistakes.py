"""A beginner's mistakes: each is answered by one line that says what, where, and the very thing to type."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from histogen.cli.main import app, main

from histogen.config import StageConfig
from histogen.pipelines.outputs import claim_output

COMMANDS = sorted(command.name for command in app.registered_commands if command.name)
COMPLETE_ALONE = {"demo", "configs", "encoders"}  # need nothing more: one runs, the others list


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


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in COMPLETE_ALONE])
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
        (["xyzzy"], "there is no command 'xyzzy'; there are demo, run, configs, inspect, view, plan, tile, "),
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


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of what a beginner has: pictures, a list, a slide that is none, the output of a command."""
    for name in ("pics/a/0.png", "pics/b/1.png", "slides/s.svs", "slides/s.geojson", "list.xlsx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "tiles" / "s.zarr" / "tiles").mkdir(parents=True)
    for name in ("tiles/s.zarr/zarr.json", "tiles/s.zarr/tiles/zarr.json"):
        (tmp_path / name).write_text("{}")
    claim_output(StageConfig(out=tmp_path / "dino"), command="pretrain")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("tile pics --out o", "folder 'pics' holds no slides, but 0.png, 1.png that look like images; to make tiles of "
         "them, run: histogen import-images pics --out pics.zarr"),
        ("tile empty --out o", "folder 'empty' holds no slides"),
        ("tile nosuch --out o", "slides 'nosuch' do not exist; check the path"),
        ("tile tiles --out o", "folder 'tiles' holds no slides, but s.zarr: tile stores are made already, and are giv"),
        ("tile tiles/s.zarr --out o", "'tiles/s.zarr' is a tile store, made already; give a slide here"),
        ("tile slides/s.geojson --out o", "'slides/s.geojson' is no slide but regions, by its name; give the slide, a"),
        ("tile list.xlsx --out o", "'list.xlsx' is no slide; a list of slides is a CSV file with a column path"),
        ("tile slides --out pics", "'pics' exists and is no output of histogen; choose another --out"),
        ("tile slides --out list.xlsx", "'list.xlsx' exists and is no output of histogen; choose another --out"),
        ("tile slides --out dino", "'dino' is an output of pretrain, not of tile; choose another --out"),
        ("tile slides --config pretrain/demo", "config 'pretrain/demo' is one of histogen pretrain, not of histogen "
         "tile: unknown key 'model' in "),
        ("tile slides --config tile/dmeo", "config 'tile/dmeo' does not exist, neither as a file nor among the shipped "
         "ones; did you mean tile/demo"),
        ("run pretrain/demo --out r", "config 'pretrain/demo' is one of histogen pretrain, not of histogen run: unkno"),
        ("run run/quick --out r", "give one of slides, images and draw: --set slides=[FOLDER] for slides, --set image"),
        ("pretrain slides --out p", "no tile store (*.zarr) is in 'slides'; make some: histogen tile slides --out "
         "tiles, if it holds slides, or histogen import-images slides --out images.zarr, if it holds images"),
        ("pretrain dino --out p", "'dino' is the output of another command, and no tile store (*.zarr) is in it"),
        ("pretrain t --out p --set lr=1", "unknown key 'lr'; did you mean 'optim.lr'"),
        ("pretrain t --out p --set model.arguments={init_values:\u00a0'1e-5'}", "model.arguments: init_values is the "
         "text '1e-5'; write the number without quotes"),
        ("import-images slides --out i.zarr", "'slides' has no image (.bmp, .gif, .jpeg, .jpg, .png, .ppm, .tif, .tif"),
        ("import-images pics/a/0.png --out i.zarr", "'pics/a/0.png' is a file; give the folder of images that it lies"),
        ("synthesize t --eldm nosuch --kind generative --out g.zarr", "out 'g.zarr' cannot be one store: there is one"),
        ("inspect empty", "'empty' is a folder without a run or a tile store; give one, or a slide"),
        ("embed t --encoder E --device gpu", "'device' cannot be 'gpu': give 'auto', 'cpu' or 'cuda'"),
        (f"tile {'a' * 300}", "'slides' has a name that no file can have, 'aaaaaaaaaaaaaaaaaaaa… (300 letters)'"),
        (f"inspect {'a' * 300}", f"'{'a' * 40}…' is a name that no file can have; shorten it"),
        (f"tile slides --config {'a' * 300}", f"'{'a' * 40}…' is a name that no file can have; shorten it"),
        ("tile slides --resume --overwrite", "--resume and --overwrite were both given; --overwrite would delete what"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("place")
def test_a_mistake_is_answered_with_what_to_type(say: Callable[..., str], words: str, text: str) -> None:
    assert say(*(word.replace("\u00a0", " ") for word in words.split(" "))).startswith(text)
