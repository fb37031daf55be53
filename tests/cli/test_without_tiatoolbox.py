"""What runs where TIAToolbox cannot be imported, and what is said of what then does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from histogen.geometry import Extent
from histogen.slides.drawn import draw_slide

WITHOUT = """
import sys
sys.modules["tiatoolbox"] = None  # importing it raises
from cli.main import main
sys.argv = ["histogen", *sys.argv[1:]]
main()
"""
ROOT = Path(__file__).parents[2]
TINY = yaml.safe_load((ROOT / ".ci" / "tiny.yaml").read_text())["pretrain"]


def without(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "s.svs"
    draw_slide(path, seed=0, extent=Extent(900, 640), region_um=120)
    return path


def test_help_tile_and_pretrain_run(slide: Path, tmp_path: Path) -> None:
    assert without("--help").returncode == 0
    tiled = without("tile", slide.parent, "--out", tmp_path / "tiles", "--set", "tile_px=64")
    assert (tiled.returncode, "tiles" in tiled.stdout) == (0, True), tiled.stderr
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    trained = without(
        "pretrain", tmp_path / "tiles", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "--device", "cpu"
    )
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "encoder").is_dir()


@pytest.mark.parametrize("setting", ["reader=tiatoolbox", "tissue.method=morphological", "stain.statistics=true"])
def test_what_needs_it_says_so(setting: str, slide: Path, tmp_path: Path) -> None:
    done = without("tile", slide.parent, "--out", tmp_path / "tiles", "--set", "tile_px=64", "--set", setting)
    assert done.returncode in (1, 2)
    assert "TIAToolbox is not installed; run: pip install 'tiatoolbox>=2.1.3'" in done.stderr
    assert "Traceback" not in done.stderr
