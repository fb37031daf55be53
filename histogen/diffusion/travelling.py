"""The code that travels inside an E-LDM's folder: files of this room joined into one that needs no histogen.

What makes a tile there is, line by line, what makes it here. A file that travels may import the standard library,
numpy, torch, diffusers, and what :data:`HEAD` stands in for or another file of its list defines.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path

PIPELINE = (
    "histogen.training.precision",
    "histogen.diffusion.micro_batch",
    "histogen.diffusion.autoencoder",
    "histogen.diffusion.sampling",
    "histogen.diffusion.pipeline",
)
"""The files that ``eldm_pipeline.py`` consists of."""
CONDITIONER = ("histogen.diffusion.conditioning",)
"""The files that ``conditioner/eldm_conditioner.py`` consists of."""

HEAD = '''
Precision = str


class ConfigError(ValueError):
    """A value cannot be used."""


class EncoderError(ValueError):
    """An embedding cannot be used."""
'''
"""Stands in for what the joined files use of ``histogen.config`` and ``histogen.errors``."""


def joined(modules: Sequence[str]) -> str:
    """Return the source of ``modules`` as that of one: their imports of others first, those of histogen left out."""
    imports: dict[str, set[str]] = {}
    bodies = []
    for module in modules:
        source = Path(_origin(module)).read_text(encoding="utf-8")
        body = ast.parse(source).body
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom) and not _own(statement):
                names = {f"{alias.name} as {alias.asname}" if alias.asname else alias.name for alias in statement.names}
                imports.setdefault(getattr(statement, "module", ""), set()).update(names)
        first = next(k for k, statement in enumerate(body) if k and not _is_import(statement))
        title = (ast.get_docstring(ast.parse(source)) or "").replace("\n", "\n# ").replace("# \n", "#\n")
        bodies.append(f"# {title}\n\n" + "\n".join(source.splitlines()[body[first - 1].end_lineno or 0 :]).strip())
    about = '"""Written by histogen beside the weights it belongs to; nothing here needs histogen (Apache-2.0)."""'
    whole = [f"import {name}" for name in sorted(imports.pop("", ()))]
    lines = [*whole, *(f"from {module} import {', '.join(sorted(imports[module]))}" for module in sorted(imports))]
    head = "\n".join([about, "", "from __future__ import annotations", "", *lines, HEAD])
    return head + "\n\n" + "\n\n\n".join(bodies) + "\n"


def _origin(module: str) -> str:
    spec = importlib.util.find_spec(module)
    return str(spec.origin) if spec else module


def _is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def _own(statement: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] in (
        "histogen",
        "__future__",
    )
