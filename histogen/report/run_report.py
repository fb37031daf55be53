"""The report of a chain: slides, synthetic tiles, curves, benchmark, configs, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histogen.report import page
from histogen.report.benchmark import benchmark_section, headline
from histogen.report.conditioning import conditioning_section, ignored_sentence
from histogen.report.curves import training_section
from histogen.report.fidelity import fidelity_section
from histogen.report.neighbours import neighbours_section
from histogen.report.samples import interpolation_section, synthesis_section
from histogen.report.stages import RunReport, SlidePicture, StageTime
from histogen.report.story import story_card

MAX_SLIDES_IN_FULL = 12
ROOMS = "Look around: slides, a map of the tiles, neighbours, what was made of a tile"


def write_report(path: Path, report: RunReport) -> Path:
    """Write ``report`` as one self-contained HTML file and return its path."""
    return page.write_page(path, report_html(report))


def report_html(report: RunReport) -> str:
    """Return the page of ``report``; a part that the report does not hold is left out."""
    sections: list[page.Section] = []
    if report.neighbours is not None:
        sections.append(neighbours_section(report.neighbours))
    if report.sources:
        sections.append(synthesis_section(report.sources, recognised=report.recognised))
    if report.interpolations:
        sections.append(interpolation_section(report.interpolations))
    if report.conditioning is not None:
        sections.append(conditioning_section(report.conditioning))
    if report.benchmark is not None:
        sections.append(benchmark_section(report.benchmark))
    if report.fidelity is not None:
        sections.append(fidelity_section(report.fidelity))
    if report.slides:
        sections.append(slides_section(report.slides))
    if report.training:
        sections.append(training_section(report.training))
    if report.stages:
        sections.append(stages_section(report.stages))
    if report.configs:
        blocks = [page.folded(name, text) for name, text in report.configs.items()]
        sections.append(page.section("Configs", *blocks, intro="Every setting, as resolved; each opens on a click."))
    if report.provenance:
        rows = list(report.provenance.items())
        sections.append(page.section("Provenance", page.table(["what", "value"], rows)))
    verdicts = headline(report.benchmark) if report.benchmark is not None and report.story is None else ""
    facts = page.facts(report.facts) if report.facts else ""
    if report.conditioning is not None and (warning := ignored_sentence(report.conditioning)):
        verdicts = page.verdict(warning, tone="bad") + verdicts
    rooms = page.link(ROOMS, report.rooms) if report.rooms else ""
    lead = rooms + (story_card(report.story, report.neighbours) if report.story is not None else "") + verdicts + facts
    return page.render_page(report.title, subtitle=report.subtitle, sections=sections, lead=lead)


def slides_section(slides: Sequence[SlidePicture]) -> page.Section:
    """Return the slides with their kept tiles; beyond a dozen, the rest as a table."""
    blocks = [
        page.facts({"slides": len(slides), "tiles kept": f"{sum(slide.num_tiles for slide in slides):,}"}),
        page.rows_of([_slide(slide) for slide in slides[:MAX_SLIDES_IN_FULL]]),
    ]
    if rest := slides[MAX_SLIDES_IN_FULL:]:
        names = ["slide", "tiles kept"]
        blocks.append(page.table(names, [(s.slide_id, f"{s.num_tiles:,}") for s in rest], numbers=[1]))
    return page.section("Slides", *blocks, intro="The marked squares are the tiles that were kept.")


def _slide(slide: SlidePicture) -> str:
    notes = [f"{name} {value}" for name, value in slide.facts.items()]
    caption = " · ".join([slide.slide_id, f"{slide.num_tiles:,} tiles", *notes])
    blocks = []
    if slide.thumbnail is not None and slide.boxes is not None:
        blocks.append(page.marked_picture(slide.thumbnail, slide.boxes, caption))
    elif slide.thumbnail is not None:
        blocks.append(page.figure(slide.thumbnail, caption, max_px=768))
    else:
        blocks.append(page.paragraph(caption, quiet=True))
    if slide.tiles:
        blocks.append(page.strip(list(slide.tiles), columns=max(6, len(slide.tiles)), max_px=128))
    return f"<div>{''.join(blocks)}</div>"


def stages_section(stages: Sequence[StageTime]) -> page.Section:
    """Return the stages with their times, and every failure; a summary of several lines has a section of its own."""
    rows = [(stage.name, _unbroken(stage.seconds), stage.summary if "\n" not in stage.summary else "see its section")
            for stage in stages]  # fmt: skip
    rows.append(("all", _unbroken(sum(stage.seconds for stage in stages)), ""))
    failed = [f"{stage.name}: {failure}" for stage in stages for failure in stage.failures]
    blocks = [page.table(["stage", "time", "what it did"], rows)]
    if failed:
        blocks += [page.heading("Failures"), page.failures(failed)]
    return page.section("Stages", *blocks)


def _unbroken(seconds: float) -> str:
    """Return :func:`duration` with spaces at which no line is broken."""
    return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    """Return a time for people: ``8.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
