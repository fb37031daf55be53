"""Networks applied in micro-batches of one fixed height, so that a row's result depends on that row alone.

Matrix products of another height, and kernels split over another number of threads, sum in another order: the same
row then differs in its last bits. So every pass has the same height (the last is padded with its own first row), and
on the CPU every pass runs on one thread, several passes side by side. Measured equal, byte for byte, whatever the
neighbours, the position, the padding and the thread count (``tests/diffusion/test_pipeline.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

ROWS = {"cuda": (128, 32)}
"""Rows of a pass through the denoiser and through the decoder, by device; elsewhere :data:`FEW_ROWS`.

On a GPU a pass of few rows costs what launching its kernels costs: 34 ms a pass of the f8 U-Net on an H200's host,
whether of 16 rows or of 128."""
FEW_ROWS = (16, 16)


def rows_of_passes(device: torch.device) -> tuple[int, int]:
    """Return the rows of a pass through the denoiser and through the decoder where nothing else is asked for."""
    return ROWS.get(device.type, FEW_ROWS)


def map_micro_batches(function: Callable[..., Tensor], *rows: Tensor, micro_batch: int, device: torch.device) -> Tensor:
    """Return ``function`` of ``rows`` (tensors of equal length), computed on ``micro_batch`` rows at a time.

    ``function`` takes a micro-batch of each tensor, on ``device``, and must return as many rows as it got; they come
    back on the CPU. It is called without gradients, from several threads at once when ``device`` is the CPU.
    """
    starts = range(0, len(rows[0]), micro_batch)

    def run(start: int) -> Tensor:
        with torch.no_grad():
            pieces = [
                _padded(tensor[start : start + micro_batch], micro_batch).to(device, non_blocking=True)
                for tensor in rows
            ]
            count = min(micro_batch, len(rows[0]) - start)
            return function(*pieces)[:count].cpu()

    if device.type != "cpu":
        return torch.cat([run(start) for start in starts])
    with (
        _single_threaded() as threads,
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as p,
    ):
        return torch.cat(list(p.map(run, starts)))


def _padded(rows: Tensor, height: int) -> Tensor:
    missing = height - len(rows)
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]) if missing else rows


@contextmanager
def _single_threaded() -> Iterator[int]:
    """Let torch use one thread per operation meanwhile; yields how many it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)
