"""What became of every slide of a tiling run: rows from the stores and their ledgers, and one page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histogen.errors import HistogenError
from histogen.report import page
from histogen.store.layout import TILES
from histogen.store.tile_store import TileStore

MAX_THUMBNAILS = 200
"""Slides pictured on the page; all thumbnails are files beside it."""
HEADER = (
    "slide",
    "tiles",
    "left out",
    "same bytes",
    "mpp",
    "from",
    "vendor",
    "reader",
    "loss, dB",
    "flags",
    "failures",
)
SORT_SCRIPT = """<script>
document.querySelectorAll("#slides th").forEach((th, i) => {
  th.style.cursor = "pointer"; th.title = "sort";
  th.addEventListener("click", () => {
    const body = th.closest("table").tBodies[0];
    const up = th.dataset.up !== "1"; th.dataset.up = up ? "1" : "0";
    const key = (tr) => {
      const t = tr.cells[i].textContent.replaceAll(",", ""); return t === "" || isNaN(t) ? t : +t; };
    [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
      return (typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1) * (up ? 1 : -1);
    }).forEach((tr) => body.append(tr));
  });
});
</script>"""


@dataclass
class SlideRow:
    """One slide at one resolution."""

    slide_id: str
    path: str
    store: str
    tiles: int = 0
    planned: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Quality filter to the number of tiles that failed it."""
    duplicates: int = 0
    """Tiles whose JPEG equals an earlier one's of the slide."""
    mpp: list[float] = field(default_factory=list)
    mpp_source: str = ""
    flags: list[str] = field(default_factory=list)
    vendor: str = ""
    reader: str = ""
    loss_db: float | None = None
    """Peak signal to noise ratio of the encoding, on a sample of the tiles."""
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def slide_rows(
    slides: Sequence[tuple[str, Path, Sequence[Path]]], *, failures: Mapping[str, str], shard_failures: Sequence[str]
) -> list[SlideRow]:
    """Return a row for each (slide id, path, stores); a resumed run gives the same rows.

    ``failures`` maps slides that could not be planned to their sentence.
    """
    rows = []
    for slide_id, path, stores in slides:
        made = [store for store in stores if slide_id not in failures or (store / "zarr.json").exists()]
        rows += [_row(slide_id, path, store, shard_failures) for store in made]
        if slide_id in failures:
            rows.append(SlideRow(slide_id, str(path), "", failures=[failures[slide_id]]))
    return rows


def _row(slide_id: str, path: Path, where: Path, shard_failures: Sequence[str]) -> SlideRow:
    row = SlideRow(slide_id, str(path), where.name)
    try:
        store = TileStore.open_(where)
        notes = store.ledger.notes(TILES)
    except HistogenError as error:
        row.failures.append(str(error))
        return row
    slide = store.provenance["slide"]
    row.vendor, row.reader, row.mpp, row.mpp_source = (slide[k] for k in ("vendor", "reader", "mpp", "mpp_source"))
    row.flags, row.planned = slide["flags"], store.num_tiles
    row.tiles = sum(note["count"] for note in notes.values())
    for note in notes.values():
        for reason, number in note.get("dropped", {}).items():
            row.dropped[reason] = row.dropped.get(reason, 0) + number
    row.loss_db = loss_db([note["squared_error"] for note in notes.values() if "squared_error" in note])
    if store.is_complete():
        hashes = store.read_rows("columns/content_hash")
        hashes = hashes[hashes != 0]
        row.duplicates = len(hashes) - len(np.unique(hashes))
    unreadable = sorted((int(i), s) for note in notes.values() for i, s in note.get("unreadable", {}).items())
    row.failures = [f"tile {i} of slide '{slide_id}': {sentence}" for i, sentence in unreadable]
    row.failures += [text for text in shard_failures if text.startswith(f"{where.stem}/")]
    return row


def loss_db(errors: Sequence[Sequence[float]]) -> float | None:
    """Return the peak signal to noise ratio, dB, of [summed squared error, count] pairs; None without any."""
    count = sum(n for _, n in errors)
    if not count:
        return None
    mean = sum(e for e, _ in errors) / count
    return round(float(20 * np.log10(255) - 10 * np.log10(mean)), 2) if mean else 99.0


def totals(rows: Sequence[SlideRow]) -> dict[str, Any]:
    """Return the run's sums."""
    return {
        "tiles": sum(row.tiles for row in rows),
        "duplicates": sum(row.duplicates for row in rows),
        "failed_slides": len({row.slide_id for row in rows if row.failures}),
    }


def write_tiling_page(path: Path, rows: Sequence[SlideRow], report: Mapping[str, Any], *, thumbnails: Path) -> Path:
    """Write the page of a tiling run: figures, failures, a table that sorts on a click, slides with their tiles."""
    facts = page.facts(
        {
            "slides": len({row.slide_id for row in rows}),
            "tiles": f"{report['tiles']:,}",
            "slides with failures": report["failed_slides"],
            "tiles of the same bytes": f"{report['duplicates']:,}",
            "seconds": f"{report['seconds']['plan']:g} to plan, {report['seconds']['tile']:g} to cut",
        }
    )
    sections = []
    if report["not_taken"]:
        left = [[Path(file).name, reason] for file, reason in report["not_taken"].items()]
        sections.append(page.section("Not taken for slides", page.table(("file", "why"), left)))
    sentences = [sentence for row in rows for sentence in row.failures]
    if sentences:
        sections.append(page.section("Failures", page.failures(sentences)))
    body = page.table(HEADER, [_cells(row) for row in rows], numbers=(1, 2, 3, 4, 8, 10)) + SORT_SCRIPT
    sections.append(page.section("Slides", body, intro="A click on a heading sorts."))
    pictured = [row for row in rows if (thumbnails / f"{Path(row.store).stem}.jpg").exists()][:MAX_THUMBNAILS]
    if pictured:
        pictures = [thumbnails / f"{Path(row.store).stem}.jpg" for row in pictured]
        captions = [f"{Path(row.store).stem}: {row.tiles:,} tiles" for row in pictured]
        intro = "Kept tiles are blue, the outline of the tissue is green, ink is yellow."
        sections.append(
            page.section("Kept tiles", page.figure_grid(pictures, captions, min_px=320, max_px=900), intro=intro)
        )
    return page.write_page(path, page.render_page("Tiling", sections=sections, lead=facts))


def _cells(row: SlideRow) -> list[object]:
    mpp = f"{row.mpp[0]:.4g}" if row.mpp else ""
    left_out = row.planned - row.tiles if row.store else ""
    loss = "" if row.loss_db is None else row.loss_db
    return [
        Path(row.store).stem or row.slide_id, f"{row.tiles:,}", left_out, row.duplicates, mpp, row.mpp_source,
        row.vendor, row.reader, loss, "; ".join(row.flags), len(row.failures) or "",
    ]  # fmt: skip
