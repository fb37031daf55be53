"""The parts every training run shares: order, schedules, checkpoints, journal, loop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from histogen.errors import CheckpointError, ComputeError, ConfigError, MissingDependencyError, TrainingStoppedError
from histogen.progress import progress_bar
from histogen.training import processes
from histogen.training.checkpoint import list_checkpoints, load_newest, save_checkpoint
from histogen.training.journal import Journal, read_journal
from histogen.training.loop import fit
from histogen.training.sampler import TileOrder, permute
from histogen.training.schedules import Cosine, LinearWarmup
from histogen.training.weights import weights_sha256


@settings(max_examples=40, deadline=None)
@given(num_items=st.integers(1, 700), seed=st.integers(0, 2**60))
def test_permute_is_a_permutation(num_items: int, seed: int) -> None:
    items = permute(np.arange(num_items), num_items, seed=seed)
    assert sorted(items.tolist()) == list(range(num_items))


def test_permute_of_a_part_is_the_part_of_the_permutation() -> None:
    whole = permute(np.arange(1000), 1000, seed=5)
    np.testing.assert_array_equal(permute(np.array([999, 3, 500]), 1000, seed=5), whole[[999, 3, 500]])
    assert not np.array_equal(whole, permute(np.arange(1000), 1000, seed=6))


def test_permute_is_spread_evenly() -> None:
    """Where an item lands is uniform: chi-squared of (first position, item) over many seeds, 15 degrees of freedom."""
    firsts = np.array([permute(np.array([0]), 16, seed=seed)[0] for seed in range(3200)])
    counts = np.bincount(firsts, minlength=16)
    chi2 = float(((counts - 200.0) ** 2 / 200.0).sum())
    assert chi2 < 37.7  # the 0.999 quantile


def test_permute_refuses_a_position_outside() -> None:
    with pytest.raises(IndexError):
        permute(np.array([10]), 10, seed=0)


def test_order_goes_through_each_epoch_once_and_reshuffles() -> None:
    order = TileOrder(num_items=103, batch_size=10, seed=3)
    epochs = [np.concatenate([order.batch(step) for step in range(e * 10, e * 10 + 10)]) for e in (0, 1)]
    assert order.steps_per_epoch == 10
    assert order.epoch_of(9) == 0
    assert order.epoch_of(10) == 1
    for items in epochs:
        assert len(set(items.tolist())) == 100
    assert not np.array_equal(epochs[0], epochs[1])


def test_order_refuses_a_batch_larger_than_the_set() -> None:
    with pytest.raises(ConfigError, match="batch of 11 cannot be drawn from 10 tiles"):
        TileOrder(num_items=10, batch_size=11, seed=0)


def dino_schedule(
    base: float, final: float, epochs: int, per_epoch: int, warmup_epochs: int, start: float
) -> np.ndarray:
    """The schedule as the paper's text gives it, as one array."""
    warmup = np.linspace(start, base, warmup_epochs * per_epoch)
    steps = np.arange(epochs * per_epoch - warmup_epochs * per_epoch)
    return np.concatenate([warmup, final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))])


def test_cosine_equals_the_array_form() -> None:
    schedule = Cosine(peak=1e-3, end=1e-6, num_steps=70, warmup_steps=20)
    np.testing.assert_allclose([schedule(s) for s in range(70)], dino_schedule(1e-3, 1e-6, 7, 10, 2, 0.0), atol=1e-15)
    rising = Cosine(peak=0.996, end=1.0, num_steps=70)
    np.testing.assert_allclose([rising(s) for s in range(70)], dino_schedule(0.996, 1.0, 7, 10, 0, 0.0), atol=1e-15)
    assert rising(70) == 1.0


def test_linear_warmup_equals_linspace() -> None:
    schedule = LinearWarmup(0.04, 0.07, 30)
    np.testing.assert_allclose([schedule(e) for e in range(32)], [*np.linspace(0.04, 0.07, 30), 0.07, 0.07])
    assert LinearWarmup(0.02, 0.04, 0)(0) == 0.04


def test_checkpoints_verify_and_fall_back(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"x": torch.full((4,), float(step)), "n": [step, "a"]}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000002.pt", "step-00000003.pt"]
    newest = tmp_path / "step-00000003.pt"
    newest.write_bytes(newest.read_bytes()[:-10])
    found = load_newest(tmp_path)
    assert found is not None
    step, state = found
    assert step == 2
    assert state["n"] == [2, "a"]
    torch.testing.assert_close(state["x"], torch.full((4,), 2.0))
    (tmp_path / "step-00000002.pt").unlink()
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        load_newest(tmp_path)
    assert load_newest(tmp_path / "empty") is None


def test_a_checkpoint_has_the_same_bytes_whether_its_words_were_made_or_loaded(tmp_path: Path) -> None:
    """Pickle writes one string twice in another way than two equal ones."""
    word, pair = "lr", OrderedDict(weight=torch.ones(2))
    pair._metadata = {"": {"version": 1}}  # type: ignore[attr-defined] - as a module's state has it
    paths = [
        save_checkpoint(tmp_path / name, 1, {"a": {word: 0.5}, "b": [{other: (0.5, word)}], "c": pair}, keep=1)
        for name, other in (("one", word), ("two", "".join(["l", "r"])))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = load_newest(tmp_path / "two")
    assert found is not None
    assert found[1]["b"] == [{"lr": (0.5, "lr")}]
    assert found[1]["c"]._metadata == {"": {"version": 1}}
    assert save_checkpoint(tmp_path / "three", 1, found[1], keep=1).read_bytes() == paths[0].read_bytes()


@pytest.mark.parametrize("lost", ["step-00000004.json", None])
def test_what_a_kill_among_deletions_leaves_goes_when_the_run_goes_on(tmp_path: Path, lost: str | None) -> None:
    """Killed after its last checkpoint: before the note of an older one was deleted, or before its state was."""
    fit(Walk(), run_dir=tmp_path, num_steps=12, checkpoint_every=4, keep=9)
    if lost:
        (tmp_path / "checkpoints" / lost).unlink()
    fit(Walk(), run_dir=tmp_path, num_steps=12, checkpoint_every=4, keep=2, resume=True)
    names = {f"step-{step:08d}.{kind}" for step in (8, 12) for kind in ("pt", "json")}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == names


def test_the_checkpoint_that_was_just_written_is_kept_beside_broken_ones_of_later_steps(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save_checkpoint(tmp_path, step, {"x": step}, keep=3)
    for step in (8, 12):
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"torn")
    save_checkpoint(tmp_path, 6, {"x": 6}, keep=2)
    assert load_newest(tmp_path) == (6, {"x": 6})


@pytest.mark.parametrize(
    ("name", "content"),
    [("pt", b"no checkpoint"), ("json", b"7"), ("json", b"\xff"), ("json", b"{}"), ("pt", None), ("json", None)],
)
def test_a_checkpoint_that_cannot_be_read_is_passed_over(tmp_path: Path, name: str, content: bytes | None) -> None:
    """Also one whose digest is right and whose content is none, and one in whose place a folder lies."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": torch.full((3,), float(step))}, keep=2)
    (tmp_path / "step-old.json").write_text("somebody's")
    file = tmp_path / f"step-00000002.{name}"
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)
        if name == "pt":
            note = {"step": 2, "sha256": hashlib.sha256(content).hexdigest()}
            file.with_suffix(".json").write_text(json.dumps(note))
    found = load_newest(tmp_path)
    assert found is not None
    assert found[0] == 1
    assert found[1]["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("row", ["no row", "[1]", '{"loss": 2}', "{" * 3000])
def test_a_journal_with_a_line_that_is_no_row_names_it(tmp_path: Path, row: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 3}}\n{row}\n')
    with pytest.raises(ConfigError, match="line 2 of journal '.*' is no row"):
        read_journal(tmp_path / "metrics.jsonl")


def test_weights_digest_sees_values_names_and_dtypes() -> None:
    a = {"w": torch.arange(4.0), "b": torch.zeros(1)}
    assert weights_sha256(a) == weights_sha256({"b": torch.zeros(1), "w": torch.arange(4.0)})
    assert weights_sha256(a) != weights_sha256({**a, "w": torch.arange(4.0) + 1e-6})
    assert weights_sha256(a) != weights_sha256({**a, "b": torch.zeros(1, dtype=torch.float64)})


def test_journal_rewinds_and_drops_a_torn_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        journal.append(step, {"loss": 1.0 / step})
    with journal.path.open("a") as file:
        file.write('{"step": 4, "lo')
    journal.rewind(2)
    assert read_journal(journal.path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


class Walk:
    """A toy task: noisy gradient steps on a vector, noise from the step's number."""

    def __init__(self, nan_from: int = 10**9, wait: float = 0.0) -> None:
        self.weights = torch.zeros(8)
        self.optimizer = torch.optim.AdamW([self.weights.requires_grad_()], lr=0.1)
        self.nan_from, self.wait = nan_from, wait

    def step(self, step: int) -> dict[str, float]:
        time.sleep(self.wait)
        noise = torch.randn(8, generator=torch.Generator().manual_seed(step))
        loss = ((self.weights - 1.0) * (1 + noise)).square().mean()
        if step >= self.nan_from:
            return {"loss": float("nan")}
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item(), "norm": self.weights.detach().norm().item()}

    def state_dict(self) -> dict[str, object]:
        return {"weights": self.weights.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.weights.data.copy_(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


SETTINGS = {"num_steps": 30, "checkpoint_every": 4, "log_every": 5, "keep": 2, "resume": True}


def test_fit_resumes_to_the_same_bytes_after_kills(tmp_path: Path) -> None:
    whole = Walk()
    fit(whole, run_dir=tmp_path / "whole", **SETTINGS)
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_training import Walk, SETTINGS, fit
fit(Walk(wait=0.04), run_dir=Path(sys.argv[1]), **SETTINGS)
"""
    killed = tmp_path / "killed"
    for wanted in ("step-00000004", "step-00000016"):
        child = subprocess.Popen([sys.executable, "-c", script, str(killed)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (killed / "checkpoints" / f"{wanted}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    again = Walk()
    fit(again, run_dir=killed, **SETTINGS)
    assert weights_sha256({"w": again.weights}) == weights_sha256({"w": whole.weights})
    for name in ("metrics.jsonl", "curves.svg"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_kills_leave_does_not_pile_up(tmp_path: Path) -> None:
    """Half a checkpoint, one that was never noted, one whose note is deleted already; a file of the user stays."""
    folder = tmp_path / "checkpoints"
    fit(Walk(), run_dir=tmp_path, num_steps=6, checkpoint_every=1, keep=2)
    expected = sorted(path.name for path in folder.iterdir())
    for name in ("step-00000007.tmp.ab12.pt", "step-00000003.pt", "step-00000004.json", "step-best.pt"):
        (folder / name).write_bytes(b"{}")
    (tmp_path / "metrics.tmp.ab12.jsonl").write_bytes(b"{}")
    fit(Walk(), run_dir=tmp_path, num_steps=8, checkpoint_every=1, keep=2, resume=True)
    assert not list(tmp_path.glob("*.tmp.*"))
    expected = [name.replace("5.", "7.").replace("6.", "8.") for name in expected]
    assert sorted(path.name for path in folder.iterdir()) == [*expected, "step-best.pt"]


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {key: [(e.step, e.value) for e in events.Scalars(key)] for key in events.Tags()["scalars"]}


def test_tensorboard_shows_the_journal_and_after_a_resume_no_more_than_that(tmp_path: Path) -> None:
    fit(Walk(), run_dir=tmp_path, num_steps=12, checkpoint_every=4, log_every=2, tensorboard=True)
    (tmp_path / "checkpoints" / "step-00000012.json").unlink()  # as a kill after step 12's row leaves it
    fit(Walk(), run_dir=tmp_path, num_steps=12, checkpoint_every=4, log_every=2, tensorboard=True, resume=True)
    rows, shown = read_journal(tmp_path / "metrics.jsonl"), scalars(tmp_path)
    assert set(shown) == {"loss", "norm"}
    for key, points in shown.items():
        assert [step for step, _ in points] == [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
        np.testing.assert_allclose([value for _, value in points], [row[key] for row in rows], rtol=1e-6)


def test_a_missing_tensorboard_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"run pip install 'histogen\[tensorboard\]'"):
        fit(Walk(), run_dir=tmp_path, num_steps=2, checkpoint_every=1, tensorboard=True)
    assert not list(tmp_path.iterdir())


def test_the_curves_show_every_loss_and_entropy_from_the_first_checkpoint_on(tmp_path: Path) -> None:
    task = Walk(nan_from=9)
    inner = task.step
    task.step = lambda step: {**inner(step), "loss_dis": 1.0 + step, "entropy": 2.0, "lr": 0.1}  # type: ignore
    with pytest.raises(TrainingStoppedError):
        fit(task, run_dir=tmp_path, num_steps=30, checkpoint_every=6, log_every=2)
    picture = (tmp_path / "curves.svg").read_text()
    assert [key for key in ("loss", "loss_dis", "entropy", "norm", "lr") if f">{key}</text>" in picture] == [
        "loss", "loss_dis", "entropy",
    ]  # fmt: skip


def test_fit_logs_means_over_the_window(tmp_path: Path) -> None:
    task = Walk()
    seen: list[float] = []
    inner = task.step
    task.step = lambda step: (lambda m: (seen.append(m["loss"]), m)[1])(inner(step))  # type: ignore[method-assign]
    last = fit(task, run_dir=tmp_path, num_steps=6, checkpoint_every=6, log_every=4)
    rows = read_journal(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 6]
    np.testing.assert_allclose(rows[0]["loss"], np.mean(seen[:4]), rtol=1e-6)
    assert last == {key: value for key, value in rows[-1].items() if key != "step"}
    np.testing.assert_allclose(last["loss"], np.mean(seen[4:]), rtol=1e-6)
    again = fit(Walk(), run_dir=tmp_path, num_steps=6, checkpoint_every=6, log_every=4, resume=True)
    assert again == last  # killed after its last checkpoint


def test_fit_stops_after_three_nonfinite_losses_and_names_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError, match=r"loss of step 10 is nan, the third.*step-00000006\.pt"):
        fit(Walk(nan_from=7), run_dir=tmp_path, num_steps=30, checkpoint_every=6)


@pytest.mark.parametrize(("every", "kept"), [(4, (4, 8)), (1, (7, 8))])
def test_no_checkpoint_of_a_step_without_a_loss_takes_the_place_of_a_good_one(
    tmp_path: Path, every: int, kept: tuple[int, int]
) -> None:
    """The checkpoint of step 8 holds the weights that gave step 9 no loss: the one before it is the good one."""
    with pytest.raises(
        TrainingStoppedError, match=rf"loss of step 11 is nan.*good checkpoint is.*step-0000000{kept[0]}"
    ):
        fit(Walk(nan_from=8), run_dir=tmp_path, num_steps=30, checkpoint_every=every, keep=2)
    assert [p.stem for p in list_checkpoints(tmp_path / "checkpoints")] == [f"step-{step:08d}" for step in kept]


def test_a_checkpoint_that_falls_on_a_bad_step_is_written_after_the_next_good_one(tmp_path: Path) -> None:
    task = Walk()
    inner = task.step
    task.step = lambda step: {"loss": float("nan")} if step == 5 else inner(step)  # type: ignore[method-assign]
    fit(task, run_dir=tmp_path, num_steps=8, checkpoint_every=6, keep=9)
    assert [p.stem for p in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000007", "step-00000008"]


def test_a_checkpoint_that_is_passed_over_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(Walk(), run_dir=tmp_path, num_steps=8, checkpoint_every=4)
    (tmp_path / "checkpoints" / "step-00000008.pt").write_bytes(b"torn")
    fit(Walk(), run_dir=tmp_path, num_steps=8, checkpoint_every=4, resume=True)
    said = capsys.readouterr().err
    assert "step-00000008.pt' does not verify; going on from the one before it, at step 4" in said


def test_of_several_processes_one_shows_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with progress_bar("train", total=2, unit="tiles", shown=shown) as bar:
            bar.advance(2)
    assert capsys.readouterr().err.count("train  2/2 tiles") == 1


def test_fit_refuses_settings_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_steps cannot be 0"):
        fit(Walk(), run_dir=tmp_path, num_steps=0, checkpoint_every=1)
    fit(Walk(), run_dir=tmp_path, num_steps=4, checkpoint_every=2)
    with pytest.raises(CheckpointError, match="beyond the 2 asked for"):
        fit(Walk(), run_dir=tmp_path, num_steps=2, checkpoint_every=2, resume=True)


def test_checkpoint_json_is_plain(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, {"a": 1}, keep=1)
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["step"] == 7
    assert note["bytes"] == path.stat().st_size


@pytest.mark.parametrize("state", [{"weights": torch.zeros(5)}, {"optimizer": {}}, {}])
def test_a_checkpoint_of_another_network_is_one_sentence(tmp_path: Path, state: dict) -> None:
    save_checkpoint(tmp_path / "checkpoints", 4, {"task": state, "window": {}}, keep=1)
    with pytest.raises(CheckpointError, match=r"the checkpoint of step 4 in '.*' is of another network or is damaged"):
        fit(Walk(), run_dir=tmp_path, **SETTINGS)


def test_a_process_whose_torchrun_is_no_more_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": 2, "RANK": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for key, value in world.items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=2))
    said = f"found nobody at 127.0.0.1:{port} within 0:00:02; start torchrun again"
    with pytest.raises(ComputeError, match=said), processes.process_group("cpu"):
        pass
