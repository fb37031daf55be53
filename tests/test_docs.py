"""The examples of the documentation run as they stand, one after the other, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import histogen
from histogen import plot

ROOT = Path(__file__).parents[1]
COMMAND = "from cli.main import main; import sys; sys.argv = ['histogen', *sys.argv[1:]]; main()"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Give the language (none: commands) and the text of each block of code."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL):
        yield found.group(1), found.group(2)


def python(source: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", source, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_the_python_examples_run_and_name_what_is_public(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    source = "\n".join(text for language, text in blocks("api.md") if language == "python")
    done = python(source, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nowhere" in done.stdout
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("slide.png", "map.png", "neighbours.png"))
    public = [name for name in histogen.__all__ if name != "__version__"]
    drawn = [
        name for name in vars(plot) if not name.startswith("_") and getattr(plot, name).__class__.__name__ == "function"
    ]
    assert len(public) + len(drawn) <= 20
    text = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in public if f"histogen.{name}" not in text] == []


@pytest.mark.timeout(600)
def test_the_tutorial_runs_from_slide_to_verdict(tmp_path: Path) -> None:
    ran = []
    for language, text in blocks("tutorial.md"):
        if language == "python":
            done = python(text, tmp_path)
            assert done.returncode == 0, done.stderr
        for line in text.splitlines() if not language else ():
            words = shlex.split(line)
            assert words[0] == "histogen"
            done = python(COMMAND, tmp_path, *words[1:])
            assert done.returncode == 0, f"{line}: {done.stderr}"
            ran.append(words[1])
    assert ran == ["tile", "inspect", "pretrain", "benchmark", "view"]
    for page in ("tiles/report.html", "benchmark/benchmark.html", "look/index.html"):
        assert (tmp_path / page).is_file(), page
    said = (tmp_path / "benchmark" / "benchmark.html").read_text()
    assert "3 slides" in said


def test_every_page_of_the_site_is_there() -> None:
    pages = re.findall(r": (\w[\w-]*\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {"index.md", "commands.md", "configs.md", "manifests.md", "results.md"}
    assert set(pages) == made | {file.name for file in (ROOT / "docs").glob("*.md")}
