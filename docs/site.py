"""Pages of the site that are made when it is built: from the README, the commands, the configs and the figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from histogen.pipelines.configs import summary
from histogen.shipped import shipped_configs

ROOT = Path(__file__).resolve().parents[1]
MOVED = {
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "results.md",
    "data_manifests/README.md": "manifests.md",
    "configs/README.md": "configs.md",
}
"""Files beside this folder, and the pages that they are."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    pages = {
        "index.md": _text("README.md"),
        "results.md": _text("benchmarks/RESULTS.md"),
        "manifests.md": _text("data_manifests/README.md"),
        "configs.md": _configs(),
        "commands.md": "\n".join(_commands()),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files beside this folder into links to their pages, or to words where they have none."""
    where = next(
        (ROOT / one for one, name in MOVED.items() if name == page.file.src_path), ROOT / "docs" / page.file.src_path
    )

    def moved(found: re.Match[str]) -> str:
        text, address, part = found.group(1), found.group(2), found.group(3) or ""
        if "://" in address or not address:
            return found.group(0)
        target = (where.parent / address).resolve()
        if target.is_dir() and (target / "README.md").exists():
            target /= "README.md"
        inside = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
        page_name = MOVED.get(inside) or (inside.removeprefix("docs/") if inside.startswith("docs/") else None)
        return f"{text}({page_name}{part})" if page_name else text.removeprefix("!").strip("[]")

    return re.sub(r"(!?\[[^\]]*\])\(([^)#\s]*)(#[^)\s]*)?\)", moved, markdown)


def _text(path: str) -> str:
    return (ROOT / path).read_text()


def _configs() -> str:
    rows = [f"| `{name}` | {summary(file)} |" for name, file in shipped_configs().items()]
    return "\n".join([_text("configs/README.md"), "", "| config | what it is |", "|---|---|", *rows])


def _commands() -> Iterator[str]:
    """Give the reference: every command with its arguments and options, as `--help` has them."""
    from histogen.cli.main import app

    group: Any = typer.main.get_command(app)
    yield "# Commands\n\nWhat `histogen COMMAND --help` says.\n"
    for name, command in group.commands.items():
        said, _, example = (command.help or "").partition("Example: ")
        yield f"## {name}\n\n{' '.join(said.split())}\n"
        if example:
            yield f"```\n{example.strip()}\n```\n"
        yield "| | |\n|---|---|"
        for one in command.params:
            if one.name != "help":
                names = (
                    one.make_metavar(command.make_context(name, [], resilient_parsing=True))
                    if one.param_type_name == "argument"
                    else ", ".join(one.opts)
                )
                yield f"| `{names.replace('|', chr(92) + '|')}` | {_cell(getattr(one, 'help', '') or '')} |"
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
