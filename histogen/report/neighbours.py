"""Held-out tiles beside their nearest training tiles under each encoder."""

from __future__ import annotations

from histogen.report import page
from histogen.report.stages import Neighbours, QueryRow

SAME, OTHER = "\N{CHECK MARK}", "\N{MULTIPLICATION X}"


def neighbours_section(found: Neighbours) -> page.Section:
    """Return one block per query: a strip for every encoder."""
    shares = {name: f"{100 * share:.1f} %" for name, share in found.shares.items()}
    return page.section(
        "What each encoder finds alike",
        page.paragraph(f"Of the {found.count} nearest tiles, over all test tiles, so many have the same class:"),
        page.facts(shares),
        page.rows_of([query_block(row) for row in found.rows]),
        intro="First in each row: a tile of a slide whose labels nobody was given. Beside it: the nearest tiles of the "
        f"other slides, nearest first. {SAME} and a solid frame: the same class. {OTHER} and a dashed one: another.",
    )


def query_block(row: QueryRow) -> str:
    """Return a query with its neighbours under every encoder."""
    strips = []
    for name, tiles in row.neighbours.items():
        alike = [label == row.label for label in row.labels[name]]
        signs = [f"{SAME if same else OTHER} {label}" for same, label in zip(alike, row.labels[name], strict=True)]
        strips.append(
            page.strip(
                [row.query, *tiles],
                [row.label, *signs],
                given=[0],
                right=[i for i, same in enumerate(alike, start=1) if same],
                wrong=[i for i, same in enumerate(alike, start=1) if not same],
                caption=name,
                max_px=128,
            )
        )
    return f"<div>{page.heading(row.label)}{''.join(strips)}</div>"
