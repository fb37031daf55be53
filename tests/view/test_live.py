"""A tile made anew: for its own row the store's bytes; other alphas by slerp; progress, cancel, and refusals."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histogen.diffusion.conditioning import slerp
from histogen.diffusion.pipeline_files import load_pipeline
from histogen.diffusion.settings import SamplerSettings
from histogen.errors import ConfigError
from histogen.pipelines.view.job import CancelledError, Job
from histogen.store.jpeg import encode_jpeg
from histogen.view.answers import Answers
from histogen.view.neighbours import embedding_of


def make(answers: Answers, **asked: Any) -> tuple[dict[str, Any], bytes]:
    """Ask for a tile and wait for it."""
    job = answers.act("live", asked)["job"]
    deadline = time.monotonic() + 60
    while (about := answers.data(f"live/{job}"))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return about, answers.image(f"live/{job}.jpg")


@pytest.mark.parametrize("kind", [0, 1])
def test_a_rows_own_alpha_and_seed_give_the_stores_bytes(answers: Answers, kind: int) -> None:
    one = answers.data("synthetic/20")["made"][kind]
    about, payload = make(answers, number=one["number"], alpha=one["alpha"], seed=one["seed"])
    assert (about["state"], about["error"], about["same"], about["done"]) == ("done", "", True, about["steps"])
    assert payload == answers.tiles.payload(one["number"])
    about, other = make(answers, number=one["number"], alpha=one["alpha"], seed="1")
    assert (about["same"], other == payload) == (None, False)


def test_another_alpha_is_slerp_of_the_same_two_tiles(answers: Answers, world: Path) -> None:
    one = answers.data("synthetic/20")["made"][1]
    _, payload = make(answers, number=one["number"], alpha=0.9, seed=one["seed"])
    first, second = (torch.from_numpy(embedding_of(answers.tiles, n, "colour-histogram")) for n in (20, one["partner"]))
    store = answers.tiles.stores[answers.tiles.locate(one["number"])[0]]
    sampler = SamplerSettings.model_validate(store.provenance["sampler"])
    image = load_pipeline(world / "eldm")(
        slerp(first, second, 0.9)[None], [int(one["seed"])], sampler=sampler, micro_batch=8,
        precision=store.provenance["precision"],
    )[0]  # fmt: skip
    assert payload == encode_jpeg(image, store.jpeg)


def test_what_cannot_be_made_is_said(answers: Answers) -> None:
    number = answers.data("synthetic/20")["made"][0]["number"]
    fine = {"number": number, "alpha": 0.5, "seed": "1"}
    for wrong in ({"number": 0}, {"number": "x"}, {"alpha": 2}, {"alpha": None}, {"seed": 5}, {"seed": str(2**63)}):
        with pytest.raises(ConfigError):
            answers.act("live", {**fine, **wrong})
    with pytest.raises(ConfigError, match="were begun"):
        answers.data("live/99999")


def test_a_job_that_is_cancelled_ends_at_its_next_step() -> None:
    job = Job()
    job.step()
    job.cancelled.set()
    with pytest.raises(CancelledError):
        job.step()
    assert job.done == 1


def test_a_new_tile_ends_the_one_before(answers: Answers) -> None:
    one = answers.data("synthetic/7")["made"][0]
    asked = {"number": one["number"], "alpha": 1.0, "seed": "3"}
    jobs = [answers.act("live", asked)["job"] for _ in range(5)]
    deadline = time.monotonic() + 60
    states = ["running"]
    while "running" in states:
        assert time.monotonic() < deadline
        states = [answers.data(f"live/{job}")["state"] for job in jobs]
        time.sleep(0.02)
    assert states[-1] == "done"
    assert set(states[:-1]) <= {"done", "cancelled"}
    assert np.isfinite(answers.data(f"live/{jobs[-1]}")["seconds"])
