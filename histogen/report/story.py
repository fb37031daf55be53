"""The first screen of a chain's page: what was done, what came out, what to do next, for any reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histogen.report import page
from histogen.report.neighbours import query_block
from histogen.report.stages import Neighbours, Story

CALLED = {"untrained": "the same network untrained", "colour": "a colour histogram"}
PAIRS = (("DINO", "untrained"), ("DINO", "colour"), ("Gen-DINO", "DINO"))


def story_card(story: Story, neighbours: Neighbours | None = None) -> str:
    """Return the story as one card of HTML, beside the first query with its neighbours."""
    parts = [
        page.heading(title) + page.listed(sentences)
        for title, sentences in (("What was done", story.done), ("What came out", story.found))
        if sentences
    ]
    if story.next:
        parts.append(page.heading("What to do next") + page.listed(story.next) + page.commands(story.commands))
    if neighbours is None or not neighbours.rows:
        return page.card(*parts)
    about = f"A tile, and the {neighbours.count} nearest to it of other slides, as each encoder sees them:"
    aside = page.paragraph(about, quiet=True) + query_block(neighbours.rows[0])
    return page.card(page.beside("".join(parts), aside))


def findings(benchmark: Mapping[str, Any]) -> list[str]:
    """Return what a benchmark of DINO, Gen-DINO and baselines shows, in words that claim no more."""
    scores = {encoder["name"]: encoder["knn"] for encoder in benchmark["encoders"] if "knn" in encoder}
    if not scores:
        return []
    classes = len(benchmark["classes"])
    told = ", ".join(
        f"{CALLED.get(name, name)} {100 * score['balanced_accuracy']:.0f}" for name, score in scores.items()
    )
    unit = benchmark["clusters"]["unit"]
    lines = [
        f"Asked for the class of {benchmark['num_test']:,} labelled tiles"
        f"{f' of {unit}s that it had no labels of' if unit != 'tile' else ''}, by their nearest labelled tiles, an "
        f"encoder is right this many times in 100, where guessing is right {100 / classes:.0f} times: {told}."
    ]
    return lines + [comparison(d) for pair in PAIRS for d in benchmark["differences"] if _is(d, pair)]


def comparison(difference: Mapping[str, Any]) -> str:
    """Return the k-NN difference of two encoders as a sentence for people."""
    a, b = (CALLED.get(difference[side], difference[side]) for side in ("a", "b"))
    points, (low, high) = 100 * difference["delta"], (100 * value for value in difference["ci95"])
    space = "\N{NO-BREAK SPACE}"
    figures = f"{points:+.1f} in 100, 95 % interval {low:+.1f} to {high:+.1f}, p{space}={space}{difference['p']:.3f}"
    words = {"better": "is better than", "worse": "is worse than"}.get(difference["verdict"])
    if words is None:
        return f"Between {a} and {b} no difference is shown ({figures})."
    return f"{a[0].upper()}{a[1:]} {words} {b} ({figures})."


def _is(difference: Mapping[str, Any], pair: tuple[str, str]) -> bool:
    return (difference["a"], difference["b"]) == pair and difference["metric"] == "knn.balanced_accuracy"
