"""The command line's contract: its commands, their common options, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ALL = (
    "tile", "import-images", "inspect", "pretrain", "embed", "train-autoencoder", "train-eldm", "synthesize",
    "fidelity", "benchmark", "run", "demo",
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
    if name == "inspect":
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
    assert "--resume" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_overwrite_never_deletes_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    done = histogen("tile", tmp_path, "--out", tmp_path / "out", "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
