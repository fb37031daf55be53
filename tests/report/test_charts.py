"""Charts put points where the numbers say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from histogen.errors import HistogenError
from histogen.report.charts import Estimate, Series, forest_plot, line_chart, nice_range, smooth
from histogen.report.curves import read_metrics


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (3.1, 11.4, [2, 4, 6, 8, 10, 12]), (-0.4, 3.4, [-1, 0, 1, 2, 3, 4])],
)
def test_ticks_are_round_and_enclose_the_data(low: float, high: float, expected: list[float]) -> None:
    first, last, ticks = nice_range(low, high, 5)
    assert ticks == pytest.approx(expected)
    assert (first, last) == (ticks[0], ticks[-1])
    assert first <= low
    assert last >= high


def test_ticks_of_a_constant() -> None:
    first, last, _ = nice_range(5.0, 5.0, 5)
    assert first < 5.0 < last


def points(svg: str, css: str) -> list[tuple[float, float]]:
    path = next(p for p in ElementTree.fromstring(svg).iter("path") if p.get("class") == css)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path.get("d", ""))]


def test_line_is_linear_in_the_numbers_and_leaves_gaps() -> None:
    svg = line_chart([Series("a", [0, 1, 2, 3], [0.0, 5.0, math.nan, 10.0])], title="loss")
    drawn = points(svg, "smooth s0")
    assert len(drawn) == 3
    (x0, y0), (x1, y1), (x3, y3) = drawn
    assert (x3 - x0) == pytest.approx(3 * (x1 - x0), abs=0.2)
    assert (y0 - y3) == pytest.approx(2 * (y0 - y1), abs=0.2)
    assert "M" in svg.split("L")[1]  # the pen is lifted at the gap


def test_long_series_are_thinned_by_means_and_smoothed() -> None:
    values = [float(i % 2) for i in range(4000)]
    svg = line_chart([Series("a", list(range(4000)), values)], title="loss")
    raw = points(svg, "raw s0")
    assert len(raw) == 400
    assert len({y for _, y in raw}) == 1  # ten alternating values average to one half
    assert smooth([1, 2, math.nan, 6], 2) == [1, 1.5, 1.5, 4]


def test_no_finite_value_is_said() -> None:
    assert "no finite value" in line_chart([Series("a", [0], [math.nan])], title="loss")


def test_log_axis_spaces_powers_evenly() -> None:
    svg = line_chart([Series("a", [0, 1, 2], [1.0, 10.0, 100.0])], title="loss", log_y=True)
    (_, y0), (_, y1), (_, y2) = points(svg, "smooth s0")
    assert (y0 - y1) == pytest.approx(y1 - y2, abs=0.2)
    assert ">100<" in svg


def test_forest_rows_lie_on_one_scale() -> None:
    svg = forest_plot(
        [Estimate("a", 1.0, 0.0, 2.0), Estimate("b<", 3.0, 2.0, 4.0, 1)], title="t", x_label="points", zero_line=True
    )
    root = ElementTree.fromstring(svg)
    bars = [(float(b.get("x1", 0)), float(b.get("x2", 0))) for b in root.iter("line") if b.get("stroke-width") == "3"]
    dots = [float(c.get("cx", 0)) for c in root.iter("circle")]
    assert bars[0][1] == pytest.approx(bars[1][0])  # 2.0 is 2.0 in both rows
    assert dots[0] == pytest.approx(sum(bars[0]) / 2, abs=0.1)
    assert dots[1] - dots[0] == pytest.approx(bars[0][1] - bars[0][0], abs=0.1)
    assert len([line for line in root.iter("line") if line.get("class") == "zero"]) == 1
    assert "1.0 [0.0, 2.0]" in svg


def test_a_broken_metrics_line_is_named(tmp_path) -> None:
    assert read_metrics(tmp_path / "absent.jsonl") == []
    (tmp_path / "m.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    with pytest.raises(HistogenError, match="line 2 of"):
        read_metrics(tmp_path / "m.jsonl")


def test_a_run_keeps_its_colour_where_others_have_no_line() -> None:
    svg = line_chart([Series("Gen-DINO", [0, 1, 2], [1.0, 2.0, 3.0], colour=1)], title="loss dis")
    assert 'class="f1"' in svg
    assert 'class="f0"' not in svg
