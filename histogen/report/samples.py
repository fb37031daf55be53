"""Synthetic tiles beside the real ones that they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from histogen.report import page
from histogen.report.stages import InterpolationRow, SourceRow


def synthesis_section(
    rows: Sequence[SourceRow],
    title: str = "Real and generative tiles",
    *,
    recognised: Mapping[str, Any] | None = None,
) -> page.Section:
    """Return each real tile beside the generative tiles sampled from its embedding."""
    strips = []
    for row in rows:
        cosines = [f"cos {value:.2f}" for value in row.consistency] or [""] * len(row.samples)
        strips.append(
            page.strip([row.source, *row.samples], ["real", *cosines], given=[0], caption=row.caption, max_px=160)
        )
    intro = (
        "Framed: a real tile. Beside it: tiles sampled by the E-LDM from that tile's embedding alone. They should "
        "differ in place and shape, and agree in kind."
    )
    if any(row.consistency for row in rows):
        intro += " cos is the cosine between the embedding of the sample and the one that it was made from."
    told = [page.verdict(recognised_sentence(recognised))] if recognised else []
    return page.section(title, *told, page.rows_of(strips), intro=intro)


def recognised_sentence(recognised: Mapping[str, Any]) -> str:
    """Return how often a probe that learnt from real tiles names the class of real and of generative ones."""

    def share(name: str) -> str:
        low, high = recognised[name]["ci95"]
        value = 100 * recognised[name]["balanced_accuracy"]
        return f"{value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

    return (
        f"A probe that learnt the classes from real training tiles names that of {share('real')} of "
        f"{recognised['num_tiles']:,} real test tiles, and of {share('generative')} of the tiles made from these "
        f"tiles' embeddings (chance {100 * recognised['chance']:.1f} %)."
    )


def interpolation_section(rows: Sequence[InterpolationRow], title: str = "Interpolated tiles") -> page.Section:
    """Return rows of samples between two real tiles."""
    strips = []
    for row in rows:
        order = sorted(range(len(row.alphas)), key=lambda i: -row.alphas[i])
        pictures = [row.source, *[row.samples[i] for i in order], row.partner]
        names = ["source", *[f"α = {row.alphas[i]:g}" for i in order], "partner"]
        strips.append(page.strip(pictures, names, given=[0, len(pictures) - 1], caption=row.caption, max_px=160))
    return page.section(
        title,
        page.rows_of(strips, wide=max((len(row.alphas) for row in rows), default=0) > 2),
        intro="Framed: two real tiles. Between them: samples from slerp(source, partner, α) of their embeddings; α is "
        "the weight of the source, so α = 1 should look like the left tile and α = 0 like the right one.",
    )
