"""Pages are well-formed, self-contained, and hold what they were given."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest

from histogen.errors import HistogenError
from histogen.report import page
from histogen.report.pictures import data_address, shrink
from histogen.report.run_report import duration, report_html, write_report
from histogen.report.stages import RunReport


class Addresses(HTMLParser):
    """Everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [values[key] or "" for key in ("src", "href", "srcset", "data") if key in values]


def elements(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>\n"))


def test_a_full_page_is_well_formed_and_loads_nothing(full_report: RunReport, tmp_path) -> None:
    path = write_report(tmp_path / "report.html", full_report)
    html = path.read_text()
    elements(html)  # every element is closed, every text escaped
    reader = Addresses()
    reader.feed(html)
    assert all(address.startswith(("data:image/", "#")) for address in reader.loaded)
    assert not re.search(r"https?:|@import|url\(|<script|<link", html)


def test_the_page_shows_what_it_was_given(full_report: RunReport) -> None:
    html = report_html(full_report)
    root = elements(html)
    text = " ".join(root.itertext())
    titles = [h.text for h in root.iter("h2")]
    assert titles == [
        "What each encoder finds alike", "Real and generative tiles", "Interpolated tiles",
        "What the embedding tells the E-LDM", "Benchmark", "Slides", "Training", "Stages", "Configs", "Provenance",
    ]  # fmt: skip
    lead = " ".join(next(s for s in root.iter("section")).itertext())
    assert lead.startswith(
        "What was done Slides were <drawn>. What came out DINO is better. What to do next Take your own: "
        "histogen tile a & b A tile, and the 2 nearest to it"
    )
    assert "names that of 80.0 % [70.0, 90.0] of 321 real test tiles, and of 50.0 % [40.0, 60.0] of the tiles" in text
    alike = next(s for s in root.iter("section") if s.get("id") == "what-each-encoder-finds-alike")
    frames = [f.get("class") for f in alike.iter("figure") if f.get("class")]
    assert frames == ["given", "right", "wrong", "given", "right", "right"]
    captions = [c.text for c in alike.iter("figcaption")]
    assert captions == ["glands", "✓ glands", "✕ mucus", "colour", "glands", "✓ glands", "✓ glands", "DINO"]
    assert "75.0 %" in "".join(alike.itertext())
    assert "70.9 [67.8, 73.8]" in text
    assert "intervals over so few are too narrow" in text
    assert "dino: S9: it <broke>" in text
    assert "model: {name: vit_small}" in text
    assert "1\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}17\N{NO-BREAK SPACE}s" in text  # 12.3 + 65 seconds
    links = {a.get("href", "")[1:] for a in root.iter("a")}
    assert links == {s.get("id") for s in root.iter("section") if s.get("id")}


def test_a_page_without_a_story_leads_with_the_verdicts(full_report: RunReport) -> None:
    text = " ".join(elements(report_html(replace(full_report, story=None))).itertext())
    assert (
        "Gen-DINO − DINO = +1.5 points [-0.4, +3.4] of k-NN balanced accuracy, p = 0.118: no difference shown" in text
    )
    assert "Gen-DINO − DINO = +1.5 points [+0.2, +3.0] of linear probe balanced accuracy, p = 0.020: better" in text
    assert "What was done" not in text


def test_conditioning_that_is_ignored_leads_the_page(full_report: RunReport) -> None:
    text = " ".join(elements(report_html(full_report)).itertext())
    assert "The embedding is used: it lowers the loss of 64 held-out tiles by 10.0 %" in text
    assert "0–499 0.00–0.50 0.9000 1.0000 0.9500 +0.1000 [+0.0500, +0.1500]" in text
    ignored = {**(full_report.conditioning or {}), "ignored": True}
    html = report_html(replace(full_report, conditioning=ignored))
    lead = html[: html.index('<section id="')]
    assert '<div class="verdict bad"><strong>conditioning ignored: the loss of 64 held-out tiles is 0.9000' in lead


def test_pictures_are_in_the_page_pixel_for_pixel_within_jpeg(full_report: RunReport) -> None:
    root = elements(report_html(full_report))
    images = [i.get("src", "") for i in root.iter("img")]
    assert len(images) == 2 * 2 * 3 + 3 + 3 * 6 + 16 * 4 + 7
    section = next(s for s in root.iter("section") if s.get("id") == "interpolated-tiles")
    decoded = [imagecodecs.jpeg8_decode(base64.b64decode(i.get("src", "").split(",")[1])) for i in section.iter("img")]
    row = full_report.interpolations[0]
    expected = [row.source, *reversed(row.samples), row.partner]  # alpha 1 stands beside the source
    for found, original in zip(decoded, expected, strict=True):
        assert np.abs(found.astype(int) - original.astype(int)).mean() < 8
    captions = [c.text for c in section.iter("figcaption")][:7]
    assert captions == ["source", "α = 1", "α = 0.75", "α = 0.5", "α = 0.25", "α = 0", "partner"]


def test_an_empty_report_is_still_a_page() -> None:
    root = elements(report_html(RunReport("Nothing yet")))
    assert [h.text for h in root.iter("h1")] == ["Nothing yet"]
    assert not list(root.iter("section"))


def test_table_keeps_order_escapes_and_aligns() -> None:
    cells = elements(page.table(["a<b", "n"], [["x & y", 1], ["z", 2]], numbers=[1]))
    assert [c.text for c in cells.iter("th")] == ["a<b", "n"]
    assert [(c.text, c.get("class")) for c in cells.iter("td")] == [
        ("x & y", None), ("1", "number"), ("z", None), ("2", "number"),
    ]  # fmt: skip
    assert [c.get("data-label") for c in cells.iter("td")] == ["a<b", "n", "a<b", "n"]


def test_shrink_averages_and_never_enlarges() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 1::2] = 200
    small = shrink(picture, 40)
    assert small.shape == (20, 40, 3)
    assert (small == 100).all()
    assert shrink(picture, 200) is picture


def test_only_pictures_are_taken(tmp_path) -> None:
    with pytest.raises(HistogenError, match="float64"):
        data_address(np.zeros((4, 4, 3)))
    with pytest.raises(HistogenError, match="neither JPEG nor PNG"):
        data_address(tmp_path / "x.tif")
    (tmp_path / "y.png").write_bytes(b"abc")
    assert data_address(tmp_path / "y.png") == "data:image/png;base64,YWJj"


@pytest.mark.parametrize(("seconds", "text"), [(8.24, "8.2 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
