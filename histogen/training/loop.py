"""The one training loop: exact resume, checkpoints, the journal, the bar, and a stop when the loss is not finite."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from histogen.errors import CheckpointError, ConfigError, TrainingStoppedError
from histogen.files import remove_temporaries
from histogen.progress import Bar, progress_bar
from histogen.training import processes
from histogen.training.checkpoint import list_checkpoints, load_newest, prune, save_checkpoint, step_of
from histogen.training.journal import BOARD_NAME, JOURNAL_NAME, Board, Journal, write_curves
from histogen.training.weights import UNREADABLE

MAX_NONFINITE = 3
"""Steps in a row with a loss that is not finite before the run stops itself."""


class Task(Protocol):
    """What is trained. A step must depend on the state and its number alone: then a resumed run is exact.

    Seed whatever is random in a step from (run seed, step); skip the update when the loss is not finite.
    """

    def step(self, step: int) -> Mapping[str, float]:
        """Do step number ``step`` (from 0) and return its metrics, ``loss`` among them."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes from step to step: tensors, numbers, strings, nested."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that :meth:`state_dict` returned."""


@dataclass
class _Window:
    """The metrics since the last row of the journal; part of the checkpoint, so that rows do not depend on kills."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    nonfinite: int = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            if not math.isfinite(value):
                continue  # counted in nonfinite; one bad step does not blank the row
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
            self.counts[key] = self.counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        return {key: total / self.counts[key] for key, total in self.sums.items()}

    def clear(self) -> None:
        self.sums.clear()
        self.counts.clear()


def fit(
    task: Task,
    *,
    run_dir: Path,
    num_steps: int,
    checkpoint_every: int,
    keep: int = 2,
    log_every: int = 10,
    resume: bool = False,
    description: str = "train",
    items_per_step: int = 1,
    item_name: str = "steps",
    tensorboard: bool = False,
) -> dict[str, float]:
    """Train ``task`` for ``num_steps`` steps in all, and return the journal's last row (the first process only).

    Writes ``run_dir/checkpoints/``, ``metrics.jsonl`` and ``curves.svg``; with ``tensorboard``, its files too. With
    ``resume`` it goes on from the newest checkpoint that verifies (from the start if there is none yet) and ends with
    the same bytes as a run that was never interrupted. While the loss is not finite no checkpoint is written, so that
    none takes the place of a good one. The bar counts ``items_per_step`` ``item_name`` for each step.

    Raises:
        ConfigError: ``num_steps``, ``checkpoint_every`` or ``log_every`` is not positive.
        CheckpointError: there are checkpoints and none verifies, or they go beyond ``num_steps``.
        MissingDependencyError: ``tensorboard``, and it is not installed.
        TrainingStoppedError: the loss was not finite three steps in a row.
    """
    for name, value in (("num_steps", num_steps), ("checkpoint_every", checkpoint_every), ("log_every", log_every)):
        if value < 1:
            raise ConfigError(f"{name} cannot be {value}; it must be at least 1")
    board = Board(run_dir / BOARD_NAME) if tensorboard and processes.is_main() else None
    journal, window = Journal(run_dir / JOURNAL_NAME, board=board), _Window()
    start = _restore(task, run_dir, window, num_steps) if resume else 0
    if processes.is_main():
        remove_temporaries(run_dir)
        journal.rewind(start)
        prune(run_dir / "checkpoints", keep=keep, before=start)  # where a kill came between writing and deleting
    total, before = num_steps * items_per_step, start * items_per_step
    with progress_bar(description, total=total, unit=item_name, done=before, shown=processes.is_main()) as bar:
        due = False
        for step in range(start, num_steps):
            metrics = task.step(step)
            _check_finite(metrics, step, window, run_dir)
            window.add(metrics)
            done = step + 1
            if done % log_every == 0 or done == num_steps:
                if processes.is_main():
                    journal.append(done, window.means())
                window.clear()
            due = due or done % checkpoint_every == 0 or done == num_steps
            if due and not window.nonfinite:
                _checkpoint(task, run_dir, done, window, keep)
                due = False
            _show(bar, metrics, items_per_step)
    if board is not None:
        board.close()
    processes.barrier()
    return journal.last() if processes.is_main() else {}


def _restore(task: Task, run_dir: Path, window: _Window, num_steps: int) -> int:
    found = load_newest(run_dir / "checkpoints")
    if found is None:
        return 0
    step, state = found
    newest = list_checkpoints(run_dir / "checkpoints")[-1]
    if step_of(newest) != step and processes.is_main():
        sys.stderr.write(f"checkpoint '{newest}' does not verify; going on from the one before it, at step {step}\n")
    if step > num_steps:
        raise CheckpointError(f"'{run_dir}' is at step {step}, beyond the {num_steps} asked for; ask for more steps")
    try:
        task.load_state_dict(state["task"])
        saved = state["window"]
        window.sums, window.counts, window.nonfinite = dict(saved["sums"]), dict(saved["counts"]), saved["nonfinite"]
    except UNREADABLE as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the checkpoint of step {step} in '{run_dir}' is of another network or is damaged ({said}); start again "
            "with --overwrite"
        ) from error
    return step


def _checkpoint(task: Task, run_dir: Path, step: int, window: _Window, keep: int) -> None:
    state = task.state_dict()  # on every process: gathering may need all of them
    if processes.is_main():
        saved = {"sums": window.sums, "counts": window.counts, "nonfinite": window.nonfinite}
        save_checkpoint(run_dir / "checkpoints", step, {"task": state, "window": saved}, keep=keep)
        write_curves(run_dir)
    processes.barrier()


def _check_finite(metrics: Mapping[str, float], step: int, window: _Window, run_dir: Path) -> None:
    window.nonfinite = 0 if math.isfinite(metrics["loss"]) else window.nonfinite + 1
    if window.nonfinite < MAX_NONFINITE:
        return
    # the weights of the checkpoint at the first of the three steps are those that gave its loss
    good = [path for path in list_checkpoints(run_dir / "checkpoints") if step_of(path) <= step - MAX_NONFINITE]
    where = f"the last good checkpoint is '{good[-1]}'" if good else "there is no good checkpoint"
    raise TrainingStoppedError(
        f"the loss of step {step + 1} is {metrics['loss']}, the third in a row that is not finite; {where}; "
        "lower the learning rate, or train in float32"
    )


def _show(bar: Bar, metrics: Mapping[str, float], items: int) -> None:
    bar.note(f"loss {metrics['loss']:.4f}")
    bar.advance(items)
