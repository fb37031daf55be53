"""The sentences on a page's first screen claim what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from histogen.report.story import comparison, findings

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("better", "The same network untrained is better than DINO"),
        ("worse", "The same network untrained is worse than DINO"),
        ("no difference shown", "Between the same network untrained and DINO no difference is shown"),
    ],
)
def test_a_comparison_in_words(verdict: str, sentence: str) -> None:
    difference = {"a": "untrained", "b": "DINO", "delta": 0.051, "ci95": [0.02, 0.08], "p": 0.01, "verdict": verdict}
    assert comparison(difference) == f"{sentence} (+5.1 in 100, 95 % interval +2.0 to +8.0, p{SPACE}={SPACE}0.010)."


def test_findings_name_every_encoder_and_compare_what_a_reader_asks_first(benchmark_json: dict[str, Any]) -> None:
    told = findings(benchmark_json)
    assert told[0] == (
        "Asked for the class of 567 labelled tiles of slides that it had no labels of, by their nearest labelled "
        "tiles, an encoder is right this many times in 100, where guessing is right 33 times: DINO 69, Gen-DINO 71."
    )
    assert told[1:] == [
        "Between Gen-DINO and DINO no difference is shown "
        f"(+1.5 in 100, 95 % interval -0.4 to +3.4, p{SPACE}={SPACE}0.118)."
    ]
    for encoder in benchmark_json["encoders"]:
        del encoder["knn"]
    assert findings(benchmark_json) == []
