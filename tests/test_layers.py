"""A row of the house imports only rows above it, and heavy libraries live only in their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = (
    {"errors", "geometry", "names", "seeds", "files", "progress"},
    {"config", "manifest"},
    {"slides", "tiles", "store"},
    {"encoders", "diffusion", "ssl", "evaluation", "training"},
    {"compute"},
    {"report"},
    {"pipelines", "testing"},
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
HEAVY = {
    "torch": {"encoders", "diffusion", "ssl", "evaluation", "training", "pipelines", "testing"},
    "dask": {"compute"},
    "distributed": {"compute"},
    "openslide": {"slides"},
    "tiatoolbox": {"slides", "tiles"},
    "zarr": {"store", "testing"},
    "typer": set(),
    "click": set(),
}
FILES = sorted((ROOT / "histogen").rglob("*.py"))


def _room(file: Path) -> str:
    return file.relative_to(ROOT / "histogen").parts[0].removesuffix(".py")


def _imports(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_its_own_row_or_rows_above(file: Path) -> None:
    room = _room(file)
    if room in ("__init__", "__main__"):
        return
    for name in _imports(file):
        parts = name.split(".")
        if parts[0] == "histogen" and len(parts) > 1 and parts[1] in ROW_OF:
            assert ROW_OF[parts[1]] <= ROW_OF[room], f"{room} imports {name}"
        if parts[0] in HEAVY:
            # torch may be named by the store's torch view and by the GPU count, each inside a function
            allowed = HEAVY[parts[0]] | ({"store", "compute"} if parts[0] == "torch" else set())
            assert room in allowed, f"{room} imports {name}"


def test_ssl_and_diffusion_never_import_each_other() -> None:
    for room, other in (("ssl", "diffusion"), ("diffusion", "ssl")):
        for file in (ROOT / "histogen" / room).glob("*.py"):
            assert not any(name.startswith(f"histogen.{other}") for name in _imports(file)), file


def test_the_library_never_knows_of_the_command_line() -> None:
    for file in FILES:
        if _room(file) != "__main__":
            assert not any(name.startswith("histogen.cli") for name in _imports(file)), file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("histogen", ("torch", "zarr", "dask", "numpy")),
        ("histogen.cli.main", ("torch", "zarr", "dask", "tiatoolbox", "numpy")),
        ("histogen.pipelines.tile.command", ("torch", "tiatoolbox", "diffusers", "timm")),
        ("histogen.pipelines.import_images", ("torch", "tiatoolbox", "diffusers", "timm")),
        ("histogen.store.tile_set", ("torch", "zarr", "dask")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
