"""How much of its conditioning an E-LDM uses, for a page and for a terminal; and the page of one E-LDM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histogen.report import page
from histogen.report.curves import training_section
from histogen.report.stages import Training

INTRO = (
    "The loss on held-out tiles when the denoiser is told the tile's own embedding, that of another tile, and none, of "
    "the same noised tiles. Kinds of tissue are decided where there is much noise: there the own embedding should help "
    "most. Timesteps and noise run from the data (0) to pure noise (1)."
)
Use = Mapping[str, Any]


def ignored_sentence(use: Use) -> str:
    """Return the warning that the conditioning is ignored; empty where it is used."""
    if not use["ignored"]:
        return ""
    right, other = (f"{use['loss'][told]:.4f}" for told in ("right", "other"))
    return (
        f"conditioning ignored: the loss of {use['tiles']:,} held-out tiles is {right} with their own embedding and "
        f"{other} with another tile's (difference {_gain(use)}); what it makes will not be like its sources"
    )


def used_sentence(use: Use) -> str:
    """Return one sentence on what the own embedding gains over another tile's."""
    share = 100 * use["gain"] / use["loss"]["other"]
    return (
        f"The embedding is used: it lowers the loss of {use['tiles']:,} held-out tiles by {share:.1f} %, against "
        f"another tile's (difference {_gain(use)})"
    )


def conditioning_section(use: Use, title: str = "What the embedding tells the E-LDM") -> page.Section:
    """Return the verdict and a table with a row per range of noise levels."""
    none = "no embedding" if use["null_trained"] else "no embedding (not trained for: drop is 0)"
    header = ["timesteps", "noise", "own embedding", "another tile's", none, "difference of the first two, 95 %"]
    rows = [[*_span(level), *_row(level)] for level in use["levels"]]
    rows.append(["all", "", *_row(use)])
    warning = ignored_sentence(use)
    said = page.verdict(warning, tone="bad") if warning else page.verdict(used_sentence(use))
    return page.section(title, said, page.table(header, rows, numbers=range(2, 6)), intro=INTRO)


def write_eldm_page(
    path: Path, use: Use, training: Training, *, facts: Mapping[str, object], preview: Path | None
) -> Path:
    """Write the page of one E-LDM and return its path; ``preview`` is a PNG of sources and samples."""
    sections = [conditioning_section(use), training_section([training])]
    if preview is not None:
        intro = (
            "From above: held-out tiles, what the autoencoder makes of them, and two samples of each one's embedding."
        )
        sections.insert(1, page.section("Samples", page.figure(preview, max_px=1536), intro=intro))
    return page.write_page(path, page.render_page("E-LDM", sections=sections, lead=page.facts(facts)))


def _span(level: Use) -> list[str]:
    (first, last), (low, high) = level["timesteps"], level["noise"]
    return [f"{first}–{last}", f"{low:.2f}–{high:.2f}"]


def _row(losses: Use) -> list[str]:
    return [f"{losses['loss'][told]:.4f}" for told in ("right", "other", "none")] + [_gain(losses)]


def _gain(losses: Use) -> str:
    low, high = losses["gain_ci95"]
    return f"{losses['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
