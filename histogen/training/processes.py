"""One process or many: what `torchrun` started, asked in one place; alone, every call is a no-op."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from histogen.errors import ComputeError, ConfigError, HistogenError

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which may have to embed and encode every tile before they train."""
MEETING = timedelta(minutes=10)
"""How long they look for what started them; where `torchrun` was killed meanwhile, it is not there any more."""


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` stands for; with `torchrun`, each process has its own GPU.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("device 'cuda' is asked for but torch sees no GPU; pass --device cpu or auto")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


@contextmanager
def process_group(name: str) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started (NCCL on GPUs, gloo on CPUs) while the block runs.

    Yields this process's device, which ``auto``, ``cpu`` or ``cuda`` stands for.

    Raises:
        ConfigError: ``cuda`` is asked for and there is none.
        ComputeError: what started them is not there any more.
    """
    device = resolve_device(name)
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or distributed.is_initialized():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, own, number = next(distributed.rendezvous("env://", timeout=MEETING))
    except distributed.DistError as error:
        raise ComputeError(
            f"this process found nobody at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} "
            f"within {MEETING}; start torchrun again"
        ) from error
    store.set_timeout(PATIENCE)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=own, world_size=number, timeout=PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if distributed.is_initialized():
        distributed.barrier()


def all_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over all processes."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    distributed.all_reduce(total)
    return total


def all_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``tensor`` over all processes."""
    return all_sum(tensor) / world_size()


def all_logsumexp(tensor: torch.Tensor) -> torch.Tensor:
    """Return log sum exp of ``tensor`` over all processes, element by element."""
    if world_size() == 1:
        return tensor
    highest = tensor.clone()
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    return highest + all_sum((tensor - highest).exp()).log()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows [N, …] of all processes, [P * N, …], in the order of the processes.

    A loss of the result, computed alike on every process, has the gradient that one process would get: each process
    carries that of its own rows, times P, because gradients are averaged over the processes afterwards.
    """
    number = world_size()
    if number == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(number)]
    distributed.all_gather(parts, rows.detach().contiguous())
    parts[rank()] = rows.detach() + number * (rows - rows.detach())
    return torch.cat(parts)


def main_decides(act: Callable[[], object]) -> None:
    """Let the first process run ``act``; where that raises, the others end quietly instead of waiting for it.

    Raises:
        HistogenError: what ``act`` raised, on the first process.
        SystemExit: on the others.
    """
    error: HistogenError | None = None
    if is_main():
        try:
            act()
        except HistogenError as caught:
            error = caught
    code = [error.exit_code if error else 0]
    if distributed.is_initialized():
        distributed.broadcast_object_list(code)
    if error is not None:
        raise error
    if code[0]:
        raise SystemExit(code[0])


@contextmanager
def main_first() -> Iterator[None]:
    """Let the first process run the block, then the others: they find done what it did."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def share_of(count: int, *, passes: int = 1, pairs: bool = False) -> slice:
    """Return which rows of a global batch of ``count`` this process computes.

    Each share splits into ``passes``, and with ``pairs`` each pass into neighbours that stay together.

    Raises:
        ConfigError: the batch does not split evenly.
    """
    parts = world_size() * passes * (2 if pairs else 1)
    if count % parts:
        over = [f"{n} {what}" for n, what in ((world_size(), "processes"), (passes, "passes")) if n > 1]
        over += ["whole pairs"] * pairs
        raise ConfigError(
            f"optim.batch {count} does not split evenly over {', '.join(over)}; use a multiple of {parts}"
        )
    size = count // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    waiting = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work, gradient in zip(waiting, gradients, strict=True):
        work.wait()  # type: ignore[union-attr]
        gradient.div_(world_size())
