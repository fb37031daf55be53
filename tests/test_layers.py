"""A row of the house imports only rows above it, and heavy libraries live only in their rooms."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = (
    {"errors", "geometry", "names", "seeds", "files", "progress", "remote"},
    {"config", "lease", "manifest", "plain_yaml", "sentences", "shipped", "table"},
    {"slides", "tiles", "store"},
    {"encoders", "diffusion", "ssl", "evaluation", "training"},
    {"compute"},
    {"report", "view", "plot"},
    {"pipelines", "testing"},
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
HEAVY = {
    "torch": {"encoders", "diffusion", "ssl", "evaluation", "training", "pipelines", "testing"},
    "dask": {"compute"},
    "distributed": {"compute"},
    "openslide": {"slides"},
    "tiatoolbox": {"slides", "tiles"},
    "zarr": {"slides", "store", "testing"},
    "tornado": {"view"},
    "umap": {"view"},
    "matplotlib": {"plot"},
    "typer": set(),
    "click": set(),
}
FILES = sorted((ROOT / "histogen").rglob("*.py"))


def _room(file: Path) -> str:
    return file.relative_to(ROOT / "histogen").parts[0].removesuffix(".py")


def _module(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(file: Path, root: Path) -> list[tuple[str, str]]:
    """What a file imports, as (module, name in it or nothing): also in functions, for types alone, and relatively."""
    found: list[tuple[str, str]] = []
    package = file.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


def _imports(file: Path) -> list[str]:
    return [text for module, name in _imported(file, ROOT) for text in (module, f"{module}.{name}".rstrip("."))]


def import_graph(root: Path, *folders: str) -> dict[str, set[str]]:
    """Return which modules each module under ``folders`` of ``root`` imports, of these modules.

    ``from package import name`` is an arrow to the module ``package.name`` where there is one, else to the package.
    """
    files = {_module(file, root): file for folder in folders for file in (root / folder).rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        named = {f"{base}.{name}" if f"{base}.{name}" in files else base for base, name in _imported(file, root)}
        graph[module] = (named & set(files)) - {module}
    return graph


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle, its first again at its end; nothing when there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


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


def test_no_file_imports_in_a_circle() -> None:
    graph = import_graph(ROOT, "histogen", "cli")
    assert graph["histogen.pipelines.tile.command"] >= {"histogen.pipelines.tile.config", "histogen.slides.find"}
    assert graph["cli.tile"] >= {"cli.common", "histogen.pipelines.tile.command"}
    assert find_circle(graph) == []


ROOM_OF = {"demo": "run.command", "plan": "tile.estimate"}
"""Commands that are done in another command's room."""


def test_each_command_is_done_in_the_room_of_its_name() -> None:
    graph = import_graph(ROOT, "histogen", "cli")
    commands = {name.removeprefix("cli.") for name in graph if name.startswith("cli.")} - {"main", "common", "usage"}
    for command in commands:
        room = f"histogen.pipelines.{ROOM_OF.get(command, command)}"
        called = {name for name in graph[f"cli.{command}"] if name.startswith("histogen.pipelines.")}
        assert called & {room, f"{room}.command"}, f"cli/{command}.py calls {called}"


@pytest.mark.parametrize(
    "back",
    [
        "import library.one.a",
        "from library.one import a",
        "from library.one.a import thing",
        "from ..one import a",
        "from ..one.a import thing",
        "def late():\n    from library.one.a import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from library.one.a import thing",
    ],
)
def test_a_circle_is_found_however_it_is_written(tmp_path: Path, back: str) -> None:
    for name, text in {
        "one/a": "from library.two import b",
        "two/b": "from library import three",
        "three": back,
    }.items():
        file = tmp_path / "library" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in (tmp_path / "library", file.parent):
            (folder / "__init__.py").touch()
        file.write_text(text.replace("from ..", "from ." if name == "three" else "from .."))
    graph = import_graph(tmp_path, "library")
    assert graph["library.one.a"] == {"library.two.b"}
    assert set(find_circle(graph)) == {"library.one.a", "library.two.b", "library.three"}
    (tmp_path / "library" / "three.py").write_text("from library import nothing_of_ours")
    assert find_circle(import_graph(tmp_path, "library")) == []


def test_ssl_and_diffusion_never_import_each_other() -> None:
    for room, other in (("ssl", "diffusion"), ("diffusion", "ssl")):
        for file in (ROOT / "histogen" / room).glob("*.py"):
            assert not any(name.startswith(f"histogen.{other}") for name in _imports(file)), file


def test_the_library_never_knows_of_the_command_line() -> None:
    for file in FILES:
        if _room(file) != "__main__":
            assert not any(name.startswith("histogen.cli") for name in _imports(file)), file


def test_a_mistake_in_a_config_is_said_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """Every command in one process, which at its end must not have what takes seconds to import."""
    (tmp_path / "key.yaml").write_text("no_such_key: 1\n")
    (tmp_path / "stage.yaml").write_text("slides: [none]\nout: none\npretrain: {no_such_key: 1}\n")
    names = {file.stem.replace("_", "-") for file in (ROOT / "cli").glob("*.py")}
    names -= {"--init--", "main", "common", "usage", "inspect", "encoders", "configs"}  # these have no config
    calls = [
        [name, *(["folder"] if name == "import-images" else []), *([] if name == "run" else ["--config"]), file]
        for name in sorted(names)
        for file in ("key.yaml", "none.yaml")
    ]
    code = """
import sys
from histogen.cli.main import main
for call in {calls}:
    sys.argv = ["histogen", *call]
    try:
        main()
    except SystemExit as stop:
        sys.stderr.write(f"{{stop.code}} {{call}}\\n")
print(*[name for name in ("torch", "diffusers", "timm", "zarr", "dask", "tiatoolbox") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(calls=[*calls, ["run", "stage.yaml"]])],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    said = done.stderr.splitlines()
    assert len(names) == 15
    for call, sentence, code_line in zip([*calls, ["run", "stage.yaml"]], said[::2], said[1::2], strict=True):
        missing = call[-1] == "none.yaml"
        assert ("'none.yaml' does not exist" if missing else "unknown key 'no_such_key'") in sentence, call
        assert code_line == f"2 {call}"
    assert done.stdout.split() == []
    assert not (tmp_path / "none").exists()


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
