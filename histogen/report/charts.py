"""Line charts and forest plots as inline SVG that follows the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

NUM_COLOURS = 6
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """One line: its name and its points; values that are not finite leave a gap.

    ``colour`` is its number among the runs of the page, so that a run keeps its colour in charts that others lack.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Estimate:
    """One row of a forest plot: a value and its interval; ``colour`` is the number of the series it belongs to."""

    name: str
    value: float
    low: float
    high: float
    colour: int = 0


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    log_y: bool = False,
    smoothed: bool = True,
    note: str = "",
) -> str:
    """Return a line chart: every series faintly as it is and, where it is long and ``smoothed``, a running mean.

    ``note`` says below it what the quantity is.
    """
    width, height, left, bottom, top = 420.0, 230.0, 46.0, 34.0, 10.0
    drawn = [_transformed(one, log_y) for one in series]
    xs = [x for one in drawn for x in one.x]
    ys = [y for one in drawn for y in one.y if math.isfinite(y)]
    if not ys:
        return f'<p class="quiet">{escape(title)}: no finite value was recorded.</p>'
    y_low, y_high, y_ticks = nice_range(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    to_x, to_y = Scale(x_low, x_high, left, width - 8), Scale(y_low, y_high, height - bottom, top)
    parts = [_gridline(left, width - 8, to_y(t), _tick_text(t, log_y)) for t in y_ticks]
    parts += [
        f'<text x="{to_x(t):.1f}" y="{height - bottom + 16:.1f}" text-anchor="middle">{_number(t)}</text>'
        for t in nice_range(x_low, x_high, 5)[2]
        if x_low <= t <= x_high
    ]
    parts += [_line(one, one.colour % NUM_COLOURS, to_x, to_y, smoothed) for one in drawn]
    parts.append(f'<text x="{width - 8:.0f}" y="{height - 3:.0f}" text-anchor="end">{escape(x_label)}</text>')
    svg = _svg(width, height, title, parts)
    under = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f'<figure><p class="chart-title">{escape(title)}</p>{svg}{legend(series)}{under}</figure>'


def forest_plot(estimates: Sequence[Estimate], *, title: str, x_label: str, zero_line: bool = False) -> str:
    """Return a forest plot: one row per estimate, its value a dot and its interval a bar."""
    row, left, width, top = 44.0, 12.0, 480.0, 4.0
    height = top + row * len(estimates) + 44
    edges = [edge for e in estimates for edge in (e.low, e.high, e.value)] + ([0.0] if zero_line else [])
    low, high, ticks = nice_range(min(edges), max(edges), 6)
    to_x, base = Scale(low, high, left, width - left), top + row * len(estimates)
    parts = [
        f'<line class="{"zero" if zero_line and abs(t) < 1e-12 else "gridline"}" x1="{to_x(t):.1f}" x2="{to_x(t):.1f}" '
        f'y1="{top:.0f}" y2="{base:.0f}"/>'
        f'<text x="{to_x(t):.1f}" y="{base + 18:.0f}" text-anchor="middle">{_number(t)}</text>'
        for t in ticks
    ]
    for number, estimate in enumerate(estimates):
        parts.append(_forest_row(estimate, top + row * number, left, width, to_x))
    parts.append(f'<text x="{width / 2:.0f}" y="{base + 38:.0f}" text-anchor="middle">{escape(x_label)}</text>')
    svg = _svg(width, height, title, parts, css="forest")
    return f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>"


def legend(series: Sequence[Series]) -> str:
    """Return the names of the lines with the colour of each."""
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><circle class="f{one.colour % NUM_COLOURS}" '
        f'cx="6" cy="6" r="5"/></svg>{escape(one.name)}</li>'
        for one in series
    )
    return f'<ul class="legend">{items}</ul>'


def nice_range(low: float, high: float, count: int) -> tuple[float, float, list[float]]:
    """Return round limits around [low, high] and the round ticks between them (steps of 1, 2 or 5 times 10^n)."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough - 1e-15)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(n * step, 12) for n in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the running mean over the last ``window`` finite values."""
    result, recent = [], list[float]()
    for value in values:
        if math.isfinite(value):
            recent = [*recent[-(window - 1) :], value]
        result.append(sum(recent) / len(recent) if recent else math.nan)
    return result


def _transformed(series: Series, log_y: bool) -> Series:
    y = [math.log10(v) if v > 0 else math.nan for v in series.y] if log_y else list(series.y)
    if len(y) <= MAX_POINTS:
        return Series(series.name, series.x, y, series.colour)
    # The mean of every stretch, so that thinning hides no trend.
    edges = np.linspace(0, len(y), MAX_POINTS + 1).astype(int)
    means = [_mean(y[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return Series(series.name, [series.x[i] for i in edges[1:] - 1], means, series.colour)


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


def _line(series: Series, colour: int, to_x: Scale, to_y: Scale, smoothed: bool) -> str:
    raw = _path(series.x, series.y, to_x, to_y)
    window = len(series.y) // 20
    if window < 2 or not smoothed:
        return f'<path class="smooth s{colour}" d="{raw}"/>'
    mean = _path(series.x, smooth(series.y, window), to_x, to_y)
    return f'<path class="raw s{colour}" d="{raw}"/><path class="smooth s{colour}" d="{mean}"/>'


def _path(x: Sequence[float], y: Sequence[float], to_x: Scale, to_y: Scale) -> str:
    pieces, pen_down = [], False
    for a, b in zip(x, y, strict=True):
        if math.isfinite(b):
            pieces.append(f"{'L' if pen_down else 'M'}{to_x(a):.1f} {to_y(b):.1f}")
        pen_down = math.isfinite(b)
    return "".join(pieces)


def _forest_row(estimate: Estimate, top: float, left: float, width: float, to_x: Scale) -> str:
    """Return the row's name and figures, and below them, where they cannot meet, its interval."""
    colour, y = estimate.colour % NUM_COLOURS, top + 30
    text = f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
    return (
        f'<text class="ink" x="{left:.0f}" y="{top + 17:.1f}">{escape(estimate.name)}</text>'
        f'<text class="ink" x="{width - left:.0f}" y="{top + 17:.1f}" text-anchor="end">{text}</text>'
        f'<line class="s{colour}" stroke-width="3" stroke-linecap="round" x1="{to_x(estimate.low):.1f}" '
        f'x2="{to_x(estimate.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="f{colour}" cx="{to_x(estimate.value):.1f}" cy="{y:.1f}" r="5.5"/>'
    )


def _gridline(x1: float, x2: float, y: float, text: str) -> str:
    return (
        f'<line class="gridline" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{x1 - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _tick_text(tick: float, log_y: bool) -> str:
    return _number(10**tick) if log_y else _number(tick)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _svg(width: float, height: float, title: str, parts: Sequence[str], css: str = "") -> str:
    name = escape(title, quote=True)
    box = f"0 0 {width:.0f} {height:.0f}"
    kind = f"chart {css}".strip()
    return f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
