"""Units of work for Dask workers of other processes, which import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Number:
    value: int
    folder: str = ""

    @property
    def key(self) -> str:
        return f"n{self.value}"

    @property
    def num_items(self) -> int:
        return 1


def wait(unit: Number) -> dict[str, int]:
    """Take a quarter of a second, and leave a mark of each try."""
    with (Path(unit.folder) / f"{unit.value}.tries").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.25)
    return {"pid": os.getpid(), "square": unit.value**2}


def kill(unit: Number) -> dict[str, int]:
    """As :func:`wait`, but unit 1 kills its worker always."""
    wait(unit)
    if unit.value == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fill(unit: Number) -> dict[str, int]:
    """Unit 1 takes 1.5 GiB of memory, slowly enough to be seen."""
    held = []
    for _ in range(96 if unit.value == 1 else 1):
        held.append(b"\1" * (16 << 20))
        time.sleep(0.01)
    return {"bytes": sum(map(len, held))}


def large(unit: Number) -> dict[str, bytes]:
    """Return 40 MiB."""
    return {"data": bytes([unit.value]) * (40 << 20)}
