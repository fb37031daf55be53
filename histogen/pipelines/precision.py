"""The precision of what is made: resolved on the machine that begins it, and kept by every machine that goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from histogen.config import Precision, StageConfig
from histogen.pipelines.outputs import read_run
from histogen.store.tile_store import TileStore
from histogen.training import processes
from histogen.training.precision import resolve_precision


def run_precision(config: StageConfig, wanted: Precision, device: torch.device) -> Precision:
    """Return what the run in ``config.out`` computes in: a resumed one as recorded, a new one as ``wanted`` here.

    Raises:
        ConfigError: float16 on a CPU.
    """
    here = resolve_precision(wanted, device)
    if not config.resume or wanted != "auto":  # another setting than the recorded one is refused with all settings
        return here
    return keep_precision(config.out, read_run(config.out).get("precision"), device)


def keep_precision(path: Path, recorded: Precision | None, device: torch.device) -> Precision:
    """Return ``recorded``, or where nothing is what ``auto`` stands for on ``device``.

    Where the two differ, one sentence on standard error says so, and what it costs.

    Raises:
        ConfigError: ``recorded`` cannot be computed on ``device``.
    """
    here = resolve_precision("auto", device)
    kept = resolve_precision(recorded or here, device)
    if kept != here and processes.is_main():
        sys.stderr.write(f"'{path}' was begun in {kept} and goes on in it; {_cost(kept)}\n")
    return kept


def rows_precision(store: TileStore, rows: str) -> Precision | None:
    """Return what the embeddings or latents in ``rows`` of ``store`` were made in; None when there are none."""
    if not (store.path / rows / "zarr.json").exists():
        return None
    recorded: Precision = store.rows_attributes(rows).get("precision", "float32")  # latents of old do not say
    return recorded


def tiles_precision(provenance: Mapping[str, Any]) -> Precision:
    """Return what synthetic tiles were made in, part of what recreates them; the first stores said ``bf16``."""
    if "precision" in provenance:
        recorded: Precision = provenance["precision"]
        return recorded
    return "bfloat16" if provenance["bf16"] else "float32"


def _cost(recorded: Precision) -> str:
    if recorded == "float32":
        return "this machine multiplies bfloat16, which may be faster: to have it, start again with --overwrite"
    return (
        f"this machine does not multiply {recorded} in hardware and may take 10 to 20 times as long as in float32: to "
        "have that, start again with --overwrite"
    )
