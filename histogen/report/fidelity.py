"""Fidelity in a report: how real, how faithful to their sources, and whether copied; with the pairs to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.report import page
from histogen.report.charts import Series, line_chart
from histogen.report.tables import aligned, markdown_table

INTRO = (
    "Every set is compared with the same held-out real tiles, at one number of tiles, since the Fréchet distance "
    "depends on it. The baselines: training tiles as they are, which show what a perfect set would get; for each "
    "source the real tile nearest to it; and, where the E-LDM is at hand, tiles that it makes of no source at all. "
    "Lower is better for the distances, higher for the rest."
)
COPY_INTRO = (
    "The ratio is a tile's distance to its nearest training tile (coarse layout, any flip or quarter turn) over that "
    "tile's own distance to its nearest neighbour in training: near 0 is a copy, near 1 as new as a real tile. Tiles "
    "without contrast have no layout to copy and are not judged."
)
Figures = Mapping[str, Any]


@dataclass(frozen=True)
class CopyPair:
    """A synthetic tile and the training tile nearest to it in layout; pixels uint8 RGB [H, W, 3]."""

    synthetic: str
    training: str
    ratio: float
    flagged: bool
    synthetic_tile: NDArray[np.uint8]
    training_tile: NDArray[np.uint8]


def fidelity_section(fidelity: Figures) -> page.Section:
    """Return the tables of every encoder's view."""
    blocks = []
    for encoder in fidelity["encoders"]:
        blocks.append(page.heading(f"Seen by {encoder['name']}"))
        counts = f"{encoder['num_compared']:,} tiles of each set, {encoder['num_reference']:,} held-out real tiles."
        blocks.append(page.paragraph(counts, quiet=True))
        blocks.append(page.table(*_distribution_rows(encoder["sets"]), numbers=range(1, 7)))
        header, rows = _source_rows(encoder["sets"])
        if rows:
            blocks.append(page.table(header, rows, numbers=range(1, 5)))
    blocks += [page.heading("Copies"), page.paragraph(COPY_INTRO, quiet=True)]
    blocks += [_copy_block(copies) for copies in fidelity["copies"]]
    return page.section("Fidelity", *blocks, intro=INTRO)


def pairs_section(name: str, pairs: Sequence[CopyPair]) -> page.Section:
    """Return the synthetic tiles nearest to training tiles, each beside that tile."""
    strips = []
    for pair in pairs:
        ratio = f"ratio {pair.ratio:.2f}{' (flagged)' if pair.flagged else ''}"
        pictures, names = [pair.training_tile, pair.synthetic_tile], ["training", "synthetic"]
        caption = f"{ratio}: {pair.synthetic} and {pair.training}"
        strips.append(page.strip(pictures, names, given=[0], caption=caption, max_px=160))
    intro = "The pairs with the smallest ratios, flipped and turned as they are. Judge with your own eyes."
    return page.section(f"Nearest to training: {name}", page.rows_of(strips), intro=intro)


def write_fidelity_page(
    path: Path,
    fidelity: Figures,
    pairs: Mapping[str, Sequence[CopyPair]],
    *,
    samples: Sequence[page.Section] = (),
    config: str,
) -> Path:
    """Write the page of one fidelity run, with sections of ``samples`` to look at, and return its path."""
    sections = [fidelity_section(fidelity), *samples, *(pairs_section(name, found) for name, found in pairs.items())]
    sections.append(page.section("Config", page.folded("fidelity", config)))
    lead = "".join(
        page.verdict(copy_sentence(copies), tone="bad" if _is_copying(copies) else "plain")
        for copies in fidelity["copies"]
    )
    facts = {"training tiles": f"{fidelity['num_train']:,}", "held-out tiles": f"{fidelity['num_held_out']:,}"}
    return page.write_page(
        path, page.render_page("Fidelity of synthetic tiles", sections=sections, lead=lead + page.facts(facts))
    )


def copy_sentence(copies: Figures) -> str:
    """Return one sentence on whether a set holds copies, with what real tiles give beside it."""
    if not copies["judged"]:
        return f"{copies['set']}: all of {copies['plain']:,} tiles are plain (no contrast): copies were not looked for"
    share, usual = 100 * copies["flagged_share"], 100 * copies["quantile"]
    finding = "more copies than chance" if _is_copying(copies) else "no sign of copying"
    duplicates = copies["duplicates"]
    note = (
        f" ({duplicates:,} held-out tiles are training tiles over again: left out here, but not of the distances)"
        if duplicates
        else ""
    )
    return (
        f"{copies['set']}: {share:.1f} % of {copies['judged']:,} tiles are nearer to a training tile than "
        f"{usual:g} % of held-out real tiles are; {finding}{note}"
    )


def fidelity_table(fidelity: Figures) -> str:
    """Return the figures as Markdown."""
    parts = ["# Fidelity"]
    for encoder in fidelity["encoders"]:
        parts.append(
            f"Seen by {encoder['name']}: {encoder['num_compared']:,} tiles of each set against "
            f"{encoder['num_reference']:,} held-out real tiles."
        )
        for header, rows in (_distribution_rows(encoder["sets"]), _source_rows(encoder["sets"])):
            if rows:
                parts.append(markdown_table(header, rows))
    parts += [copy_sentence(copies) + "." for copies in fidelity["copies"]]
    return "\n\n".join(parts) + "\n"


def fidelity_text(fidelity: Figures) -> str:
    """Return the figures for a terminal: one aligned table per encoder, and the sentences on copies."""
    lines = []
    for encoder in fidelity["encoders"]:
        lines.append(f"seen by {encoder['name']}, {encoder['num_compared']:,} tiles of each set:")
        for header, rows in (_distribution_rows(encoder["sets"]), _source_rows(encoder["sets"])):
            if rows:
                lines += aligned(header, rows)
    return "\n".join([*lines, *(copy_sentence(copies) for copies in fidelity["copies"])])


def _is_copying(copies: Figures) -> bool:
    """Whether the flagged share lies more than three standard deviations above what chance gives.

    Chance enters twice: which synthetic tiles were made, and which held-out tiles set the threshold.
    """
    if not copies["judged"]:
        return False
    q = copies["quantile"]
    spread = np.sqrt(q * (1 - q) * (1 / copies["judged"] + 1 / copies["held_out"]))
    return bool(copies["flagged_share"] > q + 3 * spread)


def _distribution_rows(sets: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    header = ["set", "Fréchet", "kernel ×1000", "precision", "recall", "density", "coverage"]
    rows = [
        [
            _name(one),
            f"{one['frechet']:.4g}",
            f"{1000 * one['kernel']:.3g} ± {1000 * one['kernel_std']:.2g}",
            *(f"{one[key]:.3f}" for key in ("precision", "recall", "density", "coverage")),
        ]
        for one in sets
    ]
    return header, rows


def _source_rows(sets: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    header = ["set", "consistency", "source is nearest, %", "source in nearest five, %", "median rank", "among"]
    rows = [
        [
            _name(one),
            f"{one['consistency']['mean']:.3f} ({one['consistency']['q05']:.2f}–{one['consistency']['q95']:.2f})",
            f"{100 * one['ranks']['top1']:.1f}",
            f"{100 * one['ranks']['top5']:.1f}",
            f"{one['ranks']['median']:,.0f}",
            f"{one['ranks']['among']:,}",
        ]
        for one in sets
        if "consistency" in one
    ]
    return header, rows


def _name(one: Figures) -> str:
    return f"{one['name']} (baseline)" if one["kind"] == "baseline" else str(one["name"])


def _copy_block(copies: Figures) -> str:
    if not copies["judged"]:
        return page.heading(copies["set"]) + page.paragraph(copy_sentence(copies) + ".")
    histogram = copies["histogram"]
    middles = [(a + b) / 2 for a, b in zip(histogram["edges"][:-1], histogram["edges"][1:], strict=True)]
    series = [
        Series(copies["set"], middles, histogram["synthetic"]),
        Series("held-out real tiles", middles, histogram["held_out"], colour=1),
    ]
    facts = {
        "median ratio": f"{copies['median_synthetic']:.2f}",
        "of real tiles": f"{copies['median_held_out']:.2f}",
        "P(nearer than real)": f"{copies['closer']:.2f}",
        "flagged": f"{copies['flagged']:,} of {copies['judged']:,}",
        "plain, not judged": f"{copies['plain']:,}",
    }
    chart = line_chart(series, title=f"{copies['set']}: share of tiles by ratio", x_label="ratio", smoothed=False)
    return (
        page.heading(copies["set"])
        + page.paragraph(copy_sentence(copies) + ".")
        + page.facts(facts)
        + page.rows_of([chart])
    )
