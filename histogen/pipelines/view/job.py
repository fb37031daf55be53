"""A tile that is being made while somebody waits: how far it is, and whether it is wanted any more."""

from __future__ import annotations

import threading
import time
from typing import Any


class CancelledError(Exception):
    """Something else was asked for meanwhile."""


class Job:
    """One tile that is being made."""

    def __init__(self) -> None:
        self.state, self.error, self.done, self.steps = "running", "", 0, 0
        self.cancelled = threading.Event()
        self.payload = b""
        self.same: bool | None = None
        self._begun, self._seconds = time.monotonic(), 0.0

    def step(self) -> None:
        """Count a step.

        Raises:
            CancelledError: it was cancelled.
        """
        if self.cancelled.is_set():
            raise CancelledError
        self.done += 1

    def end(self, state: str, error: str = "") -> None:
        """Say how it ended."""
        self._seconds, self.error, self.state = time.monotonic() - self._begun, error, state

    def about(self) -> dict[str, Any]:
        """Return ``state`` (running, done, failed, cancelled), steps ``done`` of how many, seconds, and an error.

        ``same`` says of a store's own row whether these are its bytes.
        """
        seconds = self._seconds if self.state != "running" else time.monotonic() - self._begun
        return {"state": self.state, "error": self.error, "done": self.done, "steps": self.steps, "same": self.same,
                "seconds": round(seconds, 2)}  # fmt: skip
