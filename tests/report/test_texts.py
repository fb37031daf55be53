"""Sentences and tables say what the numbers say, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from histogen.report.benchmark import difference_sentence
from histogen.report.benchmark_text import benchmark_table, benchmark_text
from histogen.report.fidelity import CopyPair, copy_sentence, fidelity_table, fidelity_text, write_fidelity_page
from histogen.report.tables import aligned, markdown_table


def test_tables() -> None:
    assert aligned(["a", "long"], [["xyz", "1"], ["", "22"]]) == ["a    long", "xyz  1", "     22"]
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("verdict", ["better", "worse", "no difference shown"])
def test_a_difference_is_told_in_points_with_its_verdict(verdict: str) -> None:
    difference = {
        "a": "A", "b": "B", "metric": "linear.macro_f1", "delta": -0.0123, "ci95": [-0.03, 0.005], "p": 0.2,
        "verdict": verdict,
    }  # fmt: skip
    expected = f"A − B = -1.2 points [-3.0, +0.5] of linear probe macro F1, p = 0.200: {verdict}"
    assert difference_sentence(difference) == expected


def test_text_and_markdown_hold_every_figure_and_note(benchmark_json: dict[str, Any]) -> None:
    text, table = benchmark_text(benchmark_json), benchmark_table(benchmark_json)
    for told in (text, table):
        assert "70.9 [67.8, 73.8]" in told
        assert benchmark_json["notes"][0] in told
    assert "Gen-DINO − DINO = +1.5 points [+0.2, +3.0] of linear probe balanced accuracy, p = 0.020: better" in text
    assert "| Gen-DINO − DINO | k-NN, macro F1 | +1.5 [-0.4, +3.4] | 0.118 | no difference shown |" in table
    for encoder in benchmark_json["encoders"]:
        encoder["retrieval"] = {"map": 0.5, "ci95": [0.4, 0.6]}
    assert "| DINO | 50.0 [40.0, 60.0] |" in benchmark_table(benchmark_json)


def test_recipes_come_before_their_runs(benchmark_json: dict[str, Any]) -> None:
    runs = benchmark_json["encoders"]
    benchmark_json["groups"] = [{**runs[0], "name": "DINO", "runs": ["DINO#0", "DINO#1"]}]
    lines = benchmark_text(benchmark_json).splitlines()
    assert lines[1].split("  ")[0] == "k-NN"
    assert "DINO, mean of 2" in lines[1]
    assert "DINO" in lines[2]


def copies(flagged_share: float, judged: int = 1000, held_out: int = 1000) -> dict[str, Any]:
    return {
        "set": "generative", "judged": judged, "plain": 3, "duplicates": 0, "held_out": held_out, "quantile": 0.01,
        "flagged": round(flagged_share * judged), "flagged_share": flagged_share, "threshold": 0.5, "closer": 0.5,
        "median_synthetic": 1.1, "median_held_out": 1.2,
        "histogram": {"edges": [0.0, 1.0, 2.0], "synthetic": [0.4, 0.6], "held_out": [0.3, 0.7]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "judged", "held_out", "copying"),
    [(0.01, 1000, 1000, False), (0.03, 1000, 1000, True), (0.03, 1000, 100, False), (0.03, 100, 1000, False)],
)
def test_copying_is_claimed_only_beyond_chance(share: float, judged: int, held_out: int, copying: bool) -> None:
    sentence = copy_sentence(copies(share, judged, held_out))
    assert sentence.endswith("more copies than chance" if copying else "no sign of copying")
    assert f"{100 * share:.1f} % of {judged:,} tiles" in sentence
    leaking = copy_sentence({**copies(share, judged, held_out), "duplicates": 7})
    assert "(7 held-out tiles are training tiles over again" in leaking


def test_fidelity_page_text_and_table(tmp_path: Path) -> None:
    figures = {"frechet": 12.345, "kernel": 0.0012, "kernel_std": 0.0003, "precision": 0.9, "recall": 0.5,
               "density": 1.2, "coverage": 0.8}  # fmt: skip
    source = {
        "consistency": {"mean": 0.81, "q05": 0.6, "median": 0.83, "q95": 0.95},
        "ranks": {"top1": 0.25, "top5": 0.5, "median": 4.0, "among": 1200},
    }
    fidelity = {
        "num_train": 900, "num_held_out": 300, "copies": [copies(0.05)],
        "encoders": [{"name": "E<1>", "num_compared": 500, "num_reference": 300, "sets": [
            {"name": "generative", "kind": "synthetic", **figures, **source},
            {"name": "training tiles", "kind": "baseline", **figures},
        ]}],
    }  # fmt: skip
    tile = np.full((16, 16, 3), 120, np.uint8)
    pairs = {"generative": [CopyPair("S-g:1", "S:1", 0.2, True, tile, tile)]}
    path = write_fidelity_page(tmp_path / "f.html", fidelity, pairs, config="seed: 0")
    root = ElementTree.fromstring(path.read_text().removeprefix("<!DOCTYPE html>\n"))
    page = " ".join(root.itertext())
    for told in (page, fidelity_text(fidelity), fidelity_table(fidelity)):
        for value in ("E<1>", "12.35", "1.2 ± 0.3", "0.810 (0.60–0.95)", "25.0", "1,200", "training tiles (baseline)"):
            assert value in told
    assert "ratio 0.20 (flagged): S-g:1 and S:1" in page
    assert root.find(".//div[@class='verdict bad']") is not None
