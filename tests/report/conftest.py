"""A report with every part, and readers that see a page as a browser does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.report.stages import (
    Curve,
    InterpolationRow,
    Neighbours,
    QueryRow,
    RunReport,
    SlidePicture,
    SourceRow,
    StageTime,
    Story,
    Training,
)


def tile(seed: int, px: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 30, (8, 8, 3))
    base = np.array([200, 130, 180]) + np.kron(coarse, np.ones((px // 8, px // 8, 1)))
    return np.clip(base + rng.normal(0, 12, (px, px, 1)), 0, 255).astype(np.uint8)


def encoder_result(name: str, value: float) -> dict[str, Any]:
    scores = {
        "balanced_accuracy": value,
        "ci95": [value - 0.031, value + 0.029],
        "macro_f1": value - 0.01,
        "macro_f1_ci95": [value - 0.04, value + 0.02],
    }
    return {"name": name, "spec": f"runs/{name}", "card": {"name": f"{name}-0a1b2c3d"}, "knn": scores, "linear": scores}


@pytest.fixture
def benchmark_json() -> dict[str, Any]:
    difference = {"a": "Gen-DINO", "b": "DINO", "delta": 0.015, "ci95": [-0.004, 0.034], "p": 0.118}
    return {
        "classes": ["adipose", "glands", "stroma"],
        "split": {"how": "by slide or group, none on both sides"},
        "num_train": 1234,
        "num_test": 567,
        "clusters": {"unit": "slide", "count": 3},
        "encoders": [encoder_result("DINO", 0.694), encoder_result("Gen-DINO", 0.709)],
        "differences": [
            {**difference, "metric": "knn.balanced_accuracy", "verdict": "no difference shown"},
            {**difference, "metric": "knn.macro_f1", "verdict": "no difference shown"},
            {**difference, "metric": "linear.balanced_accuracy", "ci95": [0.002, 0.03], "p": 0.02, "verdict": "better"},
        ],
        "notes": ["The test has 3 slides only: intervals over so few are too narrow; read them as a hint."],
    }


@pytest.fixture
def conditioning_json() -> dict[str, Any]:
    told = {"loss": {"right": 0.9, "other": 1.0, "none": 0.95}, "gain": 0.1, "gain_ci95": [0.05, 0.15]}
    level = {"timesteps": [0, 499], "noise": [0.0, 0.5], **told}
    return {"tiles": 64, **told, "ignored": False, "null_trained": True, "levels": [level]}


@pytest.fixture
def full_report(tmp_path: Path, benchmark_json: dict[str, Any], conditioning_json: dict[str, Any]) -> RunReport:
    rng = np.random.default_rng(0)
    for name, floor in (("dino", 3.0), ("gen-dino", 2.8)):
        rows = [
            {"step": s, "loss": floor + 4 * np.exp(-s / 60) + 0.1 * rng.normal(), "teacher_entropy": 6 - s / 100}
            for s in range(0, 300, 3)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    boxes = np.array([[0.1, 0.2, 0.1, 0.2], [0.2, 0.2, 0.1, 0.2]])
    slides = [
        SlidePicture(f"S{n} <&>", 120 + n, tile(n, 128)[:64], [tile(9 + i) for i in range(6)], boxes, {"mpp": 0.5})
        for n in range(3)
    ]
    return RunReport(
        title="Gen-SIS on drawn slides",
        subtitle="seed 0",
        story=Story(["Slides were <drawn>."], ["DINO is better."], ["Take your own:"], ["histogen tile a & b"]),
        neighbours=Neighbours(
            [
                QueryRow(
                    tile(1),
                    "glands",
                    {"colour": [tile(2), tile(3)], "DINO": [tile(4), tile(5)]},
                    {"colour": ["glands", "mucus"], "DINO": ["glands", "glands"]},
                )
            ],
            {"colour": 0.5, "DINO": 0.75},
            2,
        ),
        recognised={
            "num_tiles": 321,
            "chance": 1 / 6,
            "real": {"balanced_accuracy": 0.8, "ci95": [0.7, 0.9]},
            "generative": {"balanced_accuracy": 0.5, "ci95": [0.4, 0.6]},
        },
        facts={"slides": 3, "real tiles": "363"},
        slides=slides,
        sources=[
            SourceRow(tile(n), [tile(50 + n), tile(70 + n), tile(90 + n)], f"S1:{n}", [0.91, 0.88, 0.35])
            for n in range(16)
        ],
        interpolations=[
            InterpolationRow(tile(1), tile(2), [0, 0.25, 0.5, 0.75, 1], [tile(n) for n in range(5)], "S1:1 and S2:4")
        ],
        training=[
            Training(
                "Encoders", [Curve("DINO", tmp_path / "dino.jsonl"), Curve("Gen-DINO", tmp_path / "gen-dino.jsonl")]
            )
        ],
        conditioning=conditioning_json,
        benchmark=benchmark_json,
        stages=[StageTime("tiles", 12.3, "363 tiles"), StageTime("dino", 65, "300 steps", ["S9: it <broke>"])],
        configs={"pretrain": "seed: 0\nmodel: {name: vit_small}\n"},
        provenance={"histogen": "0.1.0"},
    )
