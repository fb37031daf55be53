"""A synthetic tile made anew while one waits: other alpha, other seed; for its own row the bytes of the store."""

from __future__ import annotations

import threading
from typing import Any

from histogen.errors import ConfigError, HistogenError
from histogen.pipelines.view.job import CancelledError, Job
from histogen.store.layout import SYNTHETIC
from histogen.view.answers import Answers


class Live:
    """The answers; one tile at a time, a new one ends the one before."""

    def __init__(self, answers: Answers, device: str) -> None:
        self.tiles, self._runs = answers.tiles, answers.sources.runs
        self._device = device
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        answers.facts["live"] = any(store.kind in SYNTHETIC for store in self.tiles.stores)
        answers.add_data(r"live/(\d{1,6})", lambda number: self._job(number).about())
        answers.add_image(r"live/(\d{1,6})\.jpg", lambda number: self._job(number).payload)
        answers.add_action("live", self.start)
        answers.add_action(r"cancel/(\d{1,6})", self.cancel)

    def start(self, asked: Any) -> dict[str, int]:
        """Begin a tile like ``number``, from its source and partner, with ``alpha`` and ``seed`` (digits).

        Raises:
            ConfigError: one of them cannot be used.
        """
        number, alpha, seed = (
            asked.get(key) if isinstance(asked, dict) else None for key in ("number", "alpha", "seed")
        )
        if type(number) is not int or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ConfigError("a tile is made from a synthetic one's number and an alpha in [0, 1]; reload the page")
        if not (isinstance(seed, str) and seed.isdecimal() and int(seed) < 2**63):
            raise ConfigError(f"seed '{seed!s:.30}' is not a whole number below 2**63; give another")
        position, row = self.tiles.locate(number)
        if self.tiles.stores[position].kind not in SYNTHETIC:
            raise ConfigError(f"tile {number} is not synthetic; give one that synthesize made")
        with self._lock:
            for job in self._jobs:
                job.cancelled.set()
            self._jobs.append(job := Job())
            place = len(self._jobs) - 1
        threading.Thread(target=self._work, args=(job, position, row, float(alpha), int(seed)), daemon=True).start()
        return {"job": place}

    def cancel(self, number: str, _: Any) -> dict[str, Any]:
        """End a tile before it is made."""
        self._job(number).cancelled.set()
        return {}

    def _job(self, number: str) -> Job:
        if int(number) >= len(self._jobs):
            raise ConfigError(f"tile {number} is asked for, of {len(self._jobs)} that were begun; begin one")
        return self._jobs[int(number)]

    def _work(self, job: Job, position: int, row: int, alpha: float, seed: int) -> None:
        try:
            from histogen.pipelines.view.live_tile import make_tile  # brings torch

            job.payload = make_tile(
                self.tiles, position, row, alpha, seed, runs=self._runs, device=self._device, job=job
            )
            job.end("done")
        except CancelledError:
            job.end("cancelled")
        except HistogenError as error:
            job.end("failed", str(error))
        except Exception as error:  # noqa: BLE001 - the boundary of this worker
            job.end("failed", f"the tile was not made ({error}); try again, or synthesize --recreate")
