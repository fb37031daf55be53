"""The journal of a run: one JSON row per logged step, and what is made from it: the curves, TensorBoard's files.

Rows carry no time and no host, so that the journal of a resumed run equals that of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histogen.errors import ConfigError, MissingDependencyError
from histogen.files import naming, write_atomic

JOURNAL_NAME = "metrics.jsonl"
BOARD_NAME = "tensorboard"


class Journal:
    """Appends rows to ``path``; each row has ``step`` (steps done) first. ``board`` gets the same rows."""

    def __init__(self, path: Path, *, board: Board | None = None) -> None:
        self.path, self.board = path, board

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step`` and a torn last line: what a killed run wrote beyond its checkpoint."""
        kept = [row for row in read_journal(self.path) if row["step"] <= step] if self.path.exists() else []
        if self.path.exists():
            write_atomic(self.path, "".join(_line(row) for row in kept))
        if self.board is not None:
            self.board.begin(kept)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one row, and hand it to the operating system at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"step": step, **{key: _round(value) for key, value in metrics.items()}}
        with naming(self.path), self.path.open("a") as file:
            file.write(_line(row))
        if self.board is not None:
            self.board.add(row)

    def last(self) -> dict[str, float]:
        """Return the metrics of the last row; empty when there is none."""
        rows = read_journal(self.path) if self.path.exists() else []
        return {key: value for key, value in rows[-1].items() if key != "step"} if rows else {}


class Board:
    """TensorBoard's event files in ``folder``, fed with the journal's rows.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "tensorboard is not installed; run pip install 'histogen[tensorboard]'"
            ) from error
        self.folder, self._open = folder, SummaryWriter
        self._writer: Any = None

    def begin(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Start anew with ``rows``: what a killed run wrote beyond its checkpoint goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = self._open(str(self.folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one row: a scalar for each key."""
        for key, value in row.items():
            if key != "step" and value is not None:
                self._writer.add_scalar(key, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a journal; a torn last line is left out.

    Raises:
        ConfigError: it cannot be read, or a whole line is no row.
    """
    rows = []
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"journal '{path}' cannot be read ({error}); restore it, or start again") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise ConfigError(f"line {number} of journal '{path}' is no row; delete it, or start again")
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _round(value: float) -> float | None:
    """Return ``value`` with 7 significant digits, as much as float32 holds; None (null in JSON) when not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def write_curves(run_dir: Path, *, name: str = "curves.svg") -> Path | None:
    """Draw the journal's losses and entropies over steps, one panel each, into ``run_dir``.

    None when there is nothing to draw.
    """
    journal = run_dir / JOURNAL_NAME
    rows = read_journal(journal) if journal.exists() else []
    panels: list[str] = []
    for key in dict.fromkeys(key for row in rows for key in row if "loss" in key or "entropy" in key):
        points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
        if len(points) > 1:
            panels.append(_panel(key, points, top=len(panels) * PANEL_HEIGHT))
    if not panels:
        return None
    height = PANEL_HEIGHT * len(panels)
    size = f'width="{PANEL_WIDTH}" height="{height}" viewBox="0 0 {PANEL_WIDTH} {height}"'
    body = "\n".join(panels)
    style = 'font-family="sans-serif" font-size="12"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n<rect width="100%" height="100%" fill="white"/>'
    write_atomic(run_dir / name, f"{svg}\n{body}\n</svg>\n")
    return run_dir / name


PANEL_WIDTH, PANEL_HEIGHT = 640, 200
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 26, 14, 30


def _panel(key: str, points: Sequence[tuple[float, float]], *, top: int) -> str:
    steps, values = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(steps), max(steps), min(values), max(values)
    width, height = PANEL_WIDTH - _LEFT - _RIGHT, PANEL_HEIGHT - _TOP - _BOTTOM
    path = " ".join(
        f"{_LEFT + (x - x0) / ((x1 - x0) or 1) * width:.1f},{top + _TOP + (y1 - y) / ((y1 - y0) or 1) * height:.1f}"
        for x, y in points
    )
    bottom = top + _TOP + height
    right = PANEL_WIDTH - _RIGHT
    return "\n".join(
        [
            f'<text x="{_LEFT}" y="{top + 17}" font-weight="bold">{key}</text>',
            f'<rect x="{_LEFT}" y="{top + _TOP}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>',
            f'<polyline points="{path}" fill="none" stroke="#2b6cb0" stroke-width="1.5"/>',
            f'<text x="{_LEFT - 6}" y="{top + _TOP + 10}" text-anchor="end">{y1:.4g}</text>',
            f'<text x="{_LEFT - 6}" y="{bottom}" text-anchor="end">{y0:.4g}</text>',
            f'<text x="{_LEFT}" y="{bottom + 16}">{x0:,.0f}</text>',
            f'<text x="{right}" y="{bottom + 16}" text-anchor="end">step {x1:,.0f}</text>',
        ]
    )
