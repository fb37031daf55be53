"""Loss curves from ``metrics.jsonl``: runs that belong together share a chart for each quantity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from histogen.errors import HistogenError
from histogen.report import page
from histogen.report.charts import Series, line_chart
from histogen.report.stages import Training

FIRST_KEYS = ("loss", "held_out_loss")
MEANINGS = {
    "loss": "What is minimised. Its level means little by itself: see what each part says below.",
    "loss_dino": "Cross-entropy between teacher and student on other crops of the same tile. It often rises at first: "
    "the teacher's targets become sharper and tell tiles apart, which is harder to predict than telling nothing.",
    "loss_dis": "The disentanglement loss: the interpolated tile is to be recognised as a mixture of its two sources.",
    "information": "How much of the teacher's targets tells tiles apart, in nats. Near 0 the encoder has collapsed.",
    "marginal_entropy": "Entropy of the teacher's mean target, in nats: its exponential is the prototypes in use.",
    "teacher_entropy": "Entropy of the teacher's target for a tile, in nats: low is sure of one prototype.",
    "entropy_dis": "Entropy of the mixed targets of interpolated tiles, in nats.",
    "feature_std": "Spread of the embeddings: 1 is as spread as random directions, 0 is all the same.",
    "rank_me": "RankMe: in how many directions the embeddings of a batch vary. Between 1 and the size of the batch.",
    "neighbours": "How often the two crops of a tile are each other's nearest in the batch.",
    "knn": "How often a tile's nearest other tile of the batch has its label. Nothing is trained with labels.",
    "centre_norm": "Length of the centre that is subtracted from the teacher's outputs.",
    "momentum": "How much of the teacher stays at each step.",
    "lr": "The learning rate.",
    "held_out_loss": "The same loss on tiles that are not trained on.",
    "gradient_norm": "Length of the gradient before it is clipped.",
    "pixel": "Mean absolute error of pixels in -1 to 1.",
    "gradient": "Mean absolute error of differences between neighbouring pixels: edges.",
    "codebook_used": "Share of the codes that a step's tiles use.",
    "codebook_perplexity": "How many codes, used equally often, would tell as much as a step's tiles do.",
    "kl": "How far the latents are from standard normal noise, in nats per element.",
}
"""What each recorded quantity is, for the page."""


def training_section(trainings: Sequence[Training]) -> page.Section:
    """Return a group of charts per training; a run with no recorded step is said so."""
    blocks = []
    for training in trainings:
        blocks.append(page.heading(training.title))
        charts = _charts(training)
        blocks.append(page.rows_of(charts) if charts else page.paragraph("No step was recorded.", quiet=True))
    return page.section("Training", *blocks, intro="Faint: every logged value. Bold: the running mean.")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a ``metrics.jsonl``; empty when the file is not there.

    Raises:
        HistogenError: a line is not JSON; the message names it.
    """
    rows: list[dict[str, float]] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise HistogenError(f"line {number} of '{path}' is not JSON; delete it, or the run with it") from error
    return rows


def _charts(training: Training) -> list[str]:
    runs = {curve.name: read_metrics(curve.metrics) for curve in training.curves}
    recorded = list(dict.fromkeys(key for rows in runs.values() for row in rows for key in row))
    usual = [key for key in FIRST_KEYS if key in recorded]
    keys = list(training.keys) or [*usual, *[k for k in recorded if k not in (*usual, "step")]]
    charts = []
    for key in keys:
        series = [_series(name, rows, key, number) for number, (name, rows) in enumerate(runs.items())]
        if shown := [one for one in series if one.x]:
            charts.append(line_chart(shown, title=key.replace("_", " "), note=MEANINGS.get(key, "")))
    return charts


def _series(name: str, rows: Sequence[dict[str, float]], key: str, colour: int) -> Series:
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    return Series(name, [float(x) for x, _ in points], [float(y) for _, y in points], colour)
