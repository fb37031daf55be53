"""The command line's contract: its commands, their common options, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from histogen.geometry import Extent
from histogen.slides.drawn import draw_slide
from histogen.store.checks import damaged_shards
from histogen.store.tile_store import TileStore

ALL = (
    "tile", "import-images", "inspect", "pretrain", "embed", "train-autoencoder", "train-eldm", "synthesize",
    "fidelity", "benchmark", "run", "demo", "configs", "encoders",
)  # fmt: skip
BULK = ("tile", "import-images", "embed", "synthesize", "fidelity", "benchmark", "run", "demo")


def histogen(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {"COLUMNS": "200", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    command = [str(Path(sys.executable).with_name("histogen")), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_help_lists_every_command() -> None:
    listed = histogen("--help").stdout
    assert [name for name in ALL if f" {name} " not in listed] == []


@pytest.mark.parametrize("name", ALL)
def test_a_command_has_an_example_and_the_common_options(name: str) -> None:
    text = histogen(name, "--help").stdout
    assert f"Example: histogen {name}" in text
    if name in ("inspect", "encoders", "configs"):
        return
    options = ["--set", "--seed", "--device", "--resume", "--overwrite"]
    options += ["--config"] if name != "run" else []
    options += ["--workers", "--scheduler"] if name in BULK else []
    assert [option for option in options if option not in text] == []


def test_an_unknown_key_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = histogen("pretrain", "tiles", "--out", tmp_path / "run", "--set", "sede=1")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: unknown key 'sede'; did you mean 'seed'"


def test_an_existing_output_is_left_untouched_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    slide = tmp_path / "empty.svs"
    slide.write_bytes(b"")
    done = histogen("tile", slide, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "exists and is no output of histogen; choose another --out" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_overwrite_never_deletes_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    done = histogen("tile", tmp_path, "--out", tmp_path / "out", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tile-px", "0"), "'tile_px' cannot be 0: give 8 or more"),
        (("--mpp", "0"), "mpp 0.0 is not above zero"),
        (("--mpp", "nan"), "'mpp' cannot be 'nan': give a finite number"),
        (("--mpp", "fast"), "'mpp' cannot be 'fast': give a number, 'native' or a list"),
        (("--slide-mpp", "inf"), "'slide_mpp' cannot be inf: give a finite number"),
        (("--resume", "--overwrite"), "--resume and --overwrite were both given"),
        (("--set", "mpp=[0.5, 0.5]"), "mpp [0.5, 0.5] has a resolution twice"),
        (("--set", "stain.method=macenko"), "stain: stain.method=macenko needs stain.target, an image of tissue"),
    ],
)
def test_values_that_cannot_be_are_one_line_and_exit_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = histogen("tile", tmp_path, "--out", tmp_path / "out", *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_flag_of_zero_wins_over_the_file(tmp_path: Path) -> None:
    draw_slide(tmp_path / "s.svs", seed=0, extent=Extent(1200, 900), region_um=250)
    (tmp_path / "c.yaml").write_text("seed: 7\nworkers: 2\n")
    words = ("--config", tmp_path / "c.yaml", "--seed", "0", "--workers", "0", "--tile-px", "64")
    assert histogen("tile", tmp_path / "s.svs", "--out", tmp_path / "out", *words).returncode == 0
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["seed"], config["workers"]) == (0, 0)


def test_ctrl_c_before_typer_listens_is_no_traceback() -> None:
    """Building the commands takes a tenth of a second; typer itself turns later interrupts into an exit code."""
    source = "from histogen.cli import main as m\ndef app(**_): raise KeyboardInterrupt\nm.app = app; m.main()"
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr.startswith("stopped; finished shards")


def _hear_interrupts() -> None:
    """As a terminal's child does; one of a suite that runs in the background inherits that they are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [(), ("--threads", "2"), ("--workers", "2")])
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path, how: tuple[str, ...]) -> None:
    """The interrupt goes to all processes of the group, as from a terminal; what is resumed is as if undisturbed."""
    draw_slide(tmp_path / "s.svs", seed=0, extent=Extent(1500, 1100), region_um=250)
    words = ["tile", tmp_path / "s.svs", "--out", tmp_path / "out", "--tile-px", "32", *how]
    words += ["--set", "stride_px=4", "--set", "min_tissue_fraction=0", "--set", "tissue.method=none"]
    command = [str(Path(sys.executable).with_name("histogen")), *map(str, words)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_hear_interrupts
    ) as child:
        while not list(tmp_path.glob("out/s.zarr/ledger/tiles/*.json")):
            assert child.poll() is None
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)
        start = time.monotonic()
        _, said = child.communicate(timeout=30)
    assert time.monotonic() - start < 20
    assert child.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped; finished shards and checkpoints are kept")
    assert not TileStore.open_(tmp_path / "out" / "s.zarr").is_complete()
    assert histogen(*words, "--resume").returncode == 0
    assert not damaged_shards(TileStore.open_(tmp_path / "out" / "s.zarr"))
