"""The room of runs: the journals of trainings while they grow, their previews, and what is done and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histogen.errors import ConfigError, HistogenError
from histogen.files import is_temporary, read_json
from histogen.report.curves import MEANINGS
from histogen.training.journal import JOURNAL_NAME, read_journal
from histogen.view.answers import Answers
from histogen.view.sources import find_runs, recorded

RECORD = "run.json"
MOST_ROWS = 2000
"""Rows of a journal that are shown; of more, as many evenly chosen."""
PNG = b"\x89PNG\r\n\x1a\n"


class Runs:
    """The room's answers; ``paths`` are looked through again each time, as runs begin while the page is open."""

    def __init__(self, answers: Answers, paths: Sequence[Path]) -> None:
        self.paths, self._runs = list(paths), list(answers.sources.runs)
        answers.facts["runs"] = bool(self._runs)
        answers.add_data("runs", self.runs)
        answers.add_data(r"run/(\d{1,6})", self.run)
        answers.add_image(r"preview/(\d{1,6})/(\d{1,6})\.png", self.preview)

    def runs(self) -> dict[str, Any]:
        """Return every run: its name, command, status, and steps."""
        self._runs += [run for run in find_runs(self.paths) if run not in self._runs]
        return {"runs": [{"number": number, **_about(run)} for number, run in enumerate(self._runs)]}

    def run(self, number: str) -> dict[str, Any]:
        """Return a run's journal, a list for each quantity with None where a row has none, and its previews."""
        folder = self._folder(number)
        try:
            rows, error = read_journal(folder / JOURNAL_NAME), None
        except HistogenError as said:
            rows, error = [], str(said)
        rows = rows[:: -(-len(rows) // MOST_ROWS) or 1]
        keys = dict.fromkeys(key for row in rows for key in row if key != "step")
        return {
            **_about(folder),
            "error": error,
            "steps": [row["step"] for row in rows],
            "curves": [_curve(key, rows) for key in keys],
            "previews": [file.stem for file in self._previews(folder)],
        }

    def preview(self, number: str, place: str) -> bytes:
        """Return a preview of a run, a PNG file that lies in its folder.

        Raises:
            ConfigError: there is none, or it is something else.
        """
        files = self._previews(self._folder(number))
        if int(place) >= len(files):
            raise ConfigError(f"preview {place} is asked for, of {len(files)}; reload the page")
        data = files[int(place)].read_bytes()
        if not data.startswith(PNG):
            raise ConfigError(f"'{files[int(place)].name}' is no PNG file; delete it")
        return data

    def _folder(self, number: str) -> Path:
        if int(number) >= len(self._runs):
            raise ConfigError(f"run {number} is asked for, of {len(self._runs)}; reload the page")
        return self._runs[int(number)]

    def _previews(self, folder: Path) -> list[Path]:
        """Return the pictures in a run's folder of them; what links to elsewhere is left out."""
        home = folder.resolve()
        files = sorted((folder / "previews").glob("*.png"))
        return [file for file in files if not is_temporary(file) and home in file.resolve().parents and file.is_file()]


def _about(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    except ConfigError:
        record = {}
    optim = recorded(folder).get("optim")
    said = [optim.get(key) for key in ("num_steps", "steps")] if isinstance(optim, dict) else []
    planned = [steps for steps in said if isinstance(steps, int)]
    return {
        "name": folder.name,
        "command": record.get("command", "a training"),
        "status": record.get("status", "not recorded"),
        "planned": planned[0] if planned else None,
        "done": _last_step(folder / JOURNAL_NAME),
    }


def _last_step(journal: Path) -> int:
    try:
        rows = read_journal(journal)
    except HistogenError:
        return 0
    return int(rows[-1]["step"]) if rows else 0


def _curve(key: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": key, "about": MEANINGS.get(key, ""), "values": [_number(row.get(key)) for row in rows]}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None
