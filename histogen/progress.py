"""One progress bar for every stage: done of total, rate, time left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_EVERY_SECONDS = 10.0


def _terminal_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )


class Bar:
    """What a stage sees of its bar: :meth:`advance` and :meth:`note`."""

    def __init__(self, description: str, total: int, unit: str, done: int, *, shown: bool = True) -> None:
        self.shown = shown
        self.description, self.total, self.unit = description, total, unit
        self.done, self._start_done = done, done
        self._start = self._last_print = time.monotonic()
        self._note = ""
        self._rich: Progress | None = None
        if shown and sys.stderr.isatty():
            self._rich = _terminal_bar()
            self._task = self._rich.add_task(description, total=total, completed=done, rate=f"{unit}", note="")

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more units as done."""
        self.done += count
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, rate=self._rate_text(), note=self._note)
        elif self.shown and time.monotonic() - self._last_print >= PLAIN_EVERY_SECONDS:
            self._print()

    def note(self, text: str) -> None:
        """Show ``text`` (a loss, a file) behind the bar."""
        self._note = text

    @property
    def rate(self) -> float:
        """Units per second since the bar began."""
        return (self.done - self._start_done) / max(time.monotonic() - self._start, 1e-9)

    def _rate_text(self) -> str:
        return f"{self.unit} · {self.rate:,.1f}/s" if self.done > self._start_done else self.unit

    def _print(self, tail: str | None = None) -> None:
        self._last_print = time.monotonic()
        if tail is None:
            tail = f"{(self.total - self.done) / self.rate:,.0f} s left" if self.rate > 0 else "starting"
        line = f"{self.description}  {self.done:,}/{self.total:,} {self._rate_text()} · {tail}  {self._note}"
        sys.stderr.write(line.rstrip() + "\n")
        sys.stderr.flush()

    def __enter__(self) -> Bar:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif self.shown:
            self._print(f"{time.monotonic() - self._start:,.1f} s")


@contextmanager
def progress_bar(description: str, *, total: int, unit: str, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show a bar on standard error while the block runs; ``done`` of ``total`` ``unit`` are there already.

    Of several processes that do one thing together all but one leave ``shown`` false.
    """
    with Bar(description, total, unit, done, shown=shown) as bar:
        yield bar
