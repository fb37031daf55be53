"""Building blocks of a self-contained HTML page; every function returns a piece of well-formed HTML.

Texts are escaped here, once. A page is sections, a section is blocks::

    page = render_page("Tiling", sections=[section("Slides", table(["slide", "tiles"], rows))])
    write_page(out / "report.html", page)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import histogen
from histogen.files import write_atomic
from histogen.report.pictures import Picture, data_address
from histogen.report.theme import STYLE

Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True)
class Section:
    """A titled part of a page; ``body`` is HTML made by the blocks of this module."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """Name of the section in addresses inside the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def section(title: str, *blocks: str, intro: str = "") -> Section:
    """Return a section of ``blocks``, with one or two sentences before them."""
    return Section(title, (paragraph(intro, quiet=True) if intro else "") + "".join(blocks))


def paragraph(text: str, *, quiet: bool = False) -> str:
    """Return a paragraph of plain text."""
    return f'<p class="intro">{escape(text)}</p>' if quiet else f"<p>{escape(text)}</p>"


def link(text: str, address: str) -> str:
    """Return a paragraph that leads to a file beside the page."""
    return f'<p><a href="{escape(address)}">{escape(text)}</a></p>'


def heading(text: str) -> str:
    """Return a heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def verdict(sentence: str, *, detail: str = "", tone: Tone = "plain") -> str:
    """Return the sentence that a reader should remember."""
    more = escape(detail)
    return f'<div class="verdict {tone}"><strong>{escape(sentence)}</strong>{more}</div>'


def facts(values: Mapping[str, object]) -> str:
    """Return a row of small cards, a name and a value each."""
    cards = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{cards}</dl>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] = ()) -> str:
    """Return a table; the columns ``numbers`` (counted from 0) are aligned to the right."""

    def cells(tag: str, values: Sequence[object]) -> str:
        kinds = [' class="number"' if column in numbers else "" for column in range(len(values))]
        if tag == "td":  # what a narrow screen shows beside the value
            kinds = [f'{k} data-label="{escape(str(h), quote=True)}"' for k, h in zip(kinds, header, strict=True)]
        return "".join(f"<{tag}{kind}>{escape(str(v))}</{tag}>" for v, kind in zip(values, kinds, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', header)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def figure(picture: Picture, caption: str = "", *, max_px: int = 512, css: str = "") -> str:
    """Return one picture with its caption."""
    kind = f' class="{css}"' if css else ""
    return f"<figure{kind}>{_image(picture, caption, max_px)}{_caption(caption)}</figure>"


def figure_grid(
    pictures: Sequence[Picture], captions: Sequence[str] = (), *, min_px: int = 160, max_px: int = 512
) -> str:
    """Return pictures in as many columns of at least ``min_px`` as the window holds."""
    texts = captions or [""] * len(pictures)
    body = "".join(figure(p, c, max_px=max_px) for p, c in zip(pictures, texts, strict=True))
    return f'<div class="grid" style="grid-template-columns:repeat(auto-fill,minmax({min_px}px,1fr))">{body}</div>'


def strip(
    pictures: Sequence[Picture],
    captions: Sequence[str] = (),
    *,
    given: Sequence[int] = (),
    right: Sequence[int] = (),
    wrong: Sequence[int] = (),
    caption: str = "",
    columns: int | None = None,
    max_px: int = 256,
) -> str:
    """Return pictures side by side in one row.

    Those numbered in ``given`` are framed (real ones, for example), those in ``right`` and ``wrong`` in other colours.
    """
    texts = captions or [""] * len(pictures)
    frames = dict.fromkeys(given, "given") | dict.fromkeys(right, "right") | dict.fromkeys(wrong, "wrong")
    cells = "".join(
        figure(p, c, max_px=max_px, css=frames.get(i, "")) for i, (p, c) in enumerate(zip(pictures, texts, strict=True))
    )
    row = f'<div class="strip" style="grid-template-columns:repeat({columns or len(pictures)},1fr)">{cells}</div>'
    return f"<figure>{row}{_caption(caption)}</figure>"


def rows_of(blocks: Sequence[str], *, wide: bool = False) -> str:
    """Return blocks (strips, charts) in columns, or one below the other when ``wide``."""
    return f'<div class="rows{" wide" if wide else ""}">{"".join(blocks)}</div>'


def marked_picture(picture: Picture, boxes: NDArray[np.floating], caption: str = "", *, max_px: int = 768) -> str:
    """Return a picture with rectangles over it; ``boxes`` [N, 4] are x, y, width, height as fractions of it."""
    rectangles = "".join(
        f'<rect x="{x:.5f}" y="{y:.5f}" width="{w:.5f}" height="{h:.5f}"/>' for x, y, w, h in np.asarray(boxes)
    )
    over = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{rectangles}</svg>'
    return f'<figure><div class="over">{_image(picture, caption, max_px)}{over}</div>{_caption(caption)}</figure>'


def folded(title: str, text: str) -> str:
    """Return preformatted text (a config, a log) that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def listed(sentences: Sequence[str]) -> str:
    """Return sentences as a list; nothing when there are none."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def commands(lines: Sequence[str]) -> str:
    """Return lines to type in a shell."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""


def beside(text: str, aside: str) -> str:
    """Return two pieces of HTML side by side where the window is wide, ``text`` the wider."""
    return f'<div class="beside"><div>{text}</div><div>{aside}</div></div>'


def card(*blocks: str) -> str:
    """Return blocks before the first section that belong together."""
    return f"<section>{''.join(blocks)}</section>" if any(blocks) else ""


def failures(sentences: Sequence[str]) -> str:
    """Return failures as a list; nothing when there are none."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="failures">{items}</ul>' if items else ""


def render_page(title: str, *, sections: Sequence[Section], subtitle: str = "", lead: str = "") -> str:
    """Return the whole page; ``lead`` is HTML (verdicts, facts) before the first section."""
    links = "".join(f'<li><a href="#{s.anchor}">{escape(s.title)}</a></li>' for s in sections)
    bodies = "".join(f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>{s.body}</section>' for s in sections)
    under = f'<p class="quiet">{escape(subtitle)}</p>' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{under}</header>"
        f"<nav><ul>{links}</ul></nav><main>{lead}{bodies}</main>"
        f"<footer>histogen {escape(histogen.__version__)}. This page is one file and needs nothing else.</footer>"
        "</body></html>\n"
    )


def write_page(path: Path, html: str) -> Path:
    """Write a page, whole or not at all, and return its path."""
    write_atomic(path, html)
    return path


def _image(picture: Picture, alt: str, max_px: int) -> str:
    return f'<img src="{data_address(picture, max_px=max_px)}" alt="{escape(alt, quote=True)}" loading="lazy"/>'


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""
