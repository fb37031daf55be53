"""What the classes of a drawn slide look like: maps of haematoxylin and eosin, rendered in optical density."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histogen.slides.drawn_layout import CELL_PX, CLASS_NAMES, Layout, smooth_field

GLANDS, STROMA, LYMPHOCYTES, ADIPOSE, MUCUS, NECROSIS = range(len(CLASS_NAMES))

# Per class: haematoxylin and eosin of what lies between nuclei, strength of the fibres, strength of the grain.
GROUND = np.array(
    [
        [0.10, 0.34, 0.45, 0.05],  # glands: loose stroma between them
        [0.04, 0.52, 0.80, 0.05],  # stroma: collagen bundles
        [0.16, 0.26, 0.15, 0.10],  # lymphocytes: hardly any cytoplasm
        [0.03, 0.42, 0.10, 0.03],  # adipose: this is the wall between cells
        [0.15, 0.05, 0.50, 0.02],  # mucus: pale, bluish, wispy
        [0.07, 0.50, 0.12, 0.40],  # necrosis: smudged and granular
    ],
    np.float32,
)
HAEMATOXYLIN = np.array([0.56, 0.72, 0.41])
EOSIN = np.array([0.15, 0.85, 0.40])
"""Directions of both stains in optical density (R, G, B): haematoxylin as in Macenko et al. (2009); eosin between
theirs and that of Ruifrok & Johnston (2001), which is nearer to what scanners show."""
EOSIN_BLUE = 0.62
"""Most that eosin takes of blue, per what it takes of green: with more, dense eosin has the colours of red ink."""
NOISE_PX = 1024
SENSOR_NOISE = 1.3
"""Grey levels of a scanner's noise, standard deviation; the median one's where scanners differ."""


@dataclass(frozen=True)
class Stain:
    """How one slide was stained and scanned."""

    vectors: np.ndarray
    """float [2, 3]: optical density of haematoxylin and eosin in R, G, B, per unit of concentration."""
    background: np.ndarray
    """float [3]: grey levels of empty glass."""
    blur_um: float
    """Standard deviation of the scanner's point spread, microns; 0 is as sharp as drawn."""
    noise: float
    """Standard deviation of the sensor's noise, grey levels."""


def sample_stain(rng: np.random.Generator, variation: float) -> Stain:
    """Draw a slide's stains and scanner around the standard ones; ``variation`` 0 gives exactly those."""
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.06 * variation, (2, 3)).clip(-0.15, 0.15)
    vectors = np.clip(vectors, 0.02, None)
    vectors[1, 2] = min(vectors[1, 2], EOSIN_BLUE * vectors[1, 1])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.exp(rng.normal(0, 0.22 * variation, (2, 1)).clip(-0.4, 0.4))
    background = 243 + rng.uniform(-4, 4, 3) * variation
    blur_um = 0.5 * variation * rng.uniform()
    noise = SENSOR_NOISE * np.exp(rng.normal(0, 0.3 * variation))
    return Stain(vectors * strength, background, float(blur_um), float(noise))


class Canvas:
    """Concentration maps of one slide, float32 [H, W], drawn class by class in microns."""

    def __init__(self, rng: np.random.Generator, layout: Layout, shape: tuple[int, int], mpp: float) -> None:
        self.rng, self.layout, self.shape, self.mpp = rng, layout, shape, mpp
        self.noise = rng.standard_normal((NOISE_PX, NOISE_PX)).astype(np.float32)
        self.haematoxylin, self.eosin = self._ground()
        self.nuclei = np.zeros(shape, np.float32)

    def px(self, microns: float) -> float:
        """Level-0 pixels of a length."""
        return microns / self.mpp

    def noise_rows(self, top: int, bottom: int, shift: int = 0) -> np.ndarray:
        """White noise, float32 [bottom - top, W], tiled from one block (its period cannot be seen)."""
        rows = np.arange(top + shift * 331, bottom + shift * 331) % NOISE_PX
        repeats = -(-self.shape[1] // NOISE_PX) + 1
        start = shift * 577 % NOISE_PX
        return np.tile(self.noise[rows], (1, repeats))[:, start : start + self.shape[1]]

    def _upsample(self, table: np.ndarray) -> np.ndarray:
        """A value per class [classes] as a map [H, W] with soft borders."""
        small = np.append(table, 0).astype(np.float32)[self.layout.class_map]
        big = cv2.resize(small, None, fx=CELL_PX, fy=CELL_PX, interpolation=cv2.INTER_LINEAR)
        return big[: self.shape[0], : self.shape[1]]

    def _ground(self) -> tuple[np.ndarray, np.ndarray]:
        fibres = self._fibres()
        fibres *= self._upsample(GROUND[:, 2])
        grain = self._upsample(GROUND[:, 3])
        if grain.any():
            soft = cv2.GaussianBlur(np.tile(self.noise, (2, 2)), (0, 0), max(0.6, self.px(0.9)))
            soft = soft[NOISE_PX // 2 : -NOISE_PX // 2, NOISE_PX // 2 : -NOISE_PX // 2] / soft.std()
            tiles = (-(-self.shape[0] // NOISE_PX), -(-self.shape[1] // NOISE_PX))
            fibres += grain * np.tile(soft, tiles)[: self.shape[0], : self.shape[1]]
        fibres += 1
        np.maximum(fibres, 0.05, out=fibres)
        return self._upsample(GROUND[:, 0]) * fibres, self._upsample(GROUND[:, 1]) * fibres

    def _fibres(self) -> np.ndarray:
        """Wavy streaks, about -1 to 1: noise that is stretched along a direction which turns slowly."""
        small = self.layout.class_map.shape
        step = CELL_PX * self.mpp
        angle = smooth_field(self.rng, small, 900 / step) * 0.9 + self.rng.uniform(0, np.pi)
        wave = smooth_field(self.rng, small, 70 / step) * 16 + smooth_field(self.rng, small, 300 / step) * 90
        y, x = np.mgrid[0 : small[0], 0 : small[1]].astype(np.float32) * np.float32(step)
        mean = float(angle.mean())
        across = (-np.sin(mean) * x + np.cos(mean) * y + wave + 30 * angle) / 1.6
        along = (np.cos(mean) * x + np.sin(mean) * y) / 38
        self.fibre_angle = np.arctan2(*np.gradient(across)) - np.pi / 2
        block = cv2.GaussianBlur(self.noise, (0, 0), 0.8)
        block = block * np.float32(0.55 / block.std())
        maps = [
            cv2.resize(m.astype(np.float32), None, fx=CELL_PX, fy=CELL_PX) % np.float32(NOISE_PX - 2)
            for m in (along, across)
        ]
        fibres = cv2.remap(block, maps[0], maps[1], cv2.INTER_LINEAR)
        return np.clip(fibres, -1, 1.4)[: self.shape[0], : self.shape[1]]

    def centres(self, code: int, pitch_um: float, jitter: float = 0.45) -> np.ndarray:
        """Points [n, 2] (x, y; level-0 px) on a jittered hexagonal grid, those inside the class ``code``."""
        pitch = self.px(pitch_um)
        rows, columns = int(self.shape[0] / (pitch * 0.866)) + 1, int(self.shape[1] / pitch) + 1
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(np.float64)
        grid[:, 0] += 0.5 * (grid[:, 1] % 2)
        points = (grid + 0.5 + self.rng.uniform(-jitter, jitter, grid.shape)) * pitch * [1, 0.866]
        cells = (points // CELL_PX).astype(int)
        inside = (cells[:, 0] < self.layout.class_map.shape[1]) & (cells[:, 1] < self.layout.class_map.shape[0])
        points, cells = points[inside], cells[inside]
        return points[self.layout.class_map[cells[:, 1], cells[:, 0]] == code]

    def draw_nuclei(
        self, points: np.ndarray, radius_um: float, *, elongation: float, spread: float, depth: float,
        angles: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Draw ellipses of about ``radius_um``; ``spread`` is the relative spread of size, ``depth`` the stain."""
        count = len(points)
        radii = self.px(radius_um) * np.exp(self.rng.normal(0, spread, count))
        ratios = 1 + (elongation - 1) * self.rng.uniform(0.7, 1.3, count)
        turns = np.degrees(angles) if angles is not None else self.rng.uniform(0, 180, count)
        stains = depth * self.rng.uniform(0.7, 1.25, count)
        fixed = np.round(points * 16).astype(int)
        axes = np.maximum(8, np.round(np.stack([radii * np.sqrt(ratios), radii / np.sqrt(ratios)], 1) * 16)).astype(int)
        for (x, y), (a, b), turn, stain in zip(
            fixed.tolist(), axes.tolist(), turns.tolist(), stains.tolist(), strict=True
        ):
            cv2.ellipse(self.nuclei, (x, y), (a, b), turn, 0, 360, stain, -1, cv2.LINE_8, 4)


def draw_classes(canvas: Canvas) -> None:
    """Draw every class's own structures; nuclei go to their own map and are softened at the end."""
    _adipose(canvas)
    _glands(canvas)
    stroma = canvas.centres(STROMA, 24)
    canvas.draw_nuclei(stroma, 2.6, elongation=3.4, spread=0.2, depth=0.75, angles=_at(canvas.fibre_angle, stroma))
    canvas.draw_nuclei(canvas.centres(LYMPHOCYTES, 9.0), 3.3, elongation=1.1, spread=0.12, depth=0.95)
    canvas.draw_nuclei(canvas.centres(MUCUS, 60), 2.6, elongation=1.6, spread=0.2, depth=0.6)
    canvas.draw_nuclei(canvas.centres(NECROSIS, 7.5, 0.7), 0.95, elongation=1.2, spread=0.45, depth=0.8)
    canvas.draw_nuclei(canvas.centres(NECROSIS, 34, 0.7), 3.4, elongation=1.3, spread=0.2, depth=0.30)
    _settle_nuclei(canvas)


def _at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    cells = (points // CELL_PX).astype(int)
    return field[cells[:, 1], cells[:, 0]]


def _settle_nuclei(canvas: Canvas) -> None:
    """Soften the nuclei's edges, mottle them with chromatin, and add them to the haematoxylin."""
    soft = cv2.GaussianBlur(canvas.nuclei, (0, 0), max(0.5, canvas.px(0.45)))
    for top in range(0, canvas.shape[0], 512):
        bottom = min(top + 512, canvas.shape[0])
        chromatin = cv2.GaussianBlur(canvas.noise_rows(top, bottom, shift=1), (0, 0), max(0.5, canvas.px(0.5)))
        canvas.haematoxylin[top:bottom] += soft[top:bottom] * (1 + np.clip(chromatin, -0.8, 0.8) * 0.55)
        canvas.eosin[top:bottom] *= 1 - 0.5 * np.minimum(soft[top:bottom], 1)


def _blob(
    canvas: Canvas, centre: np.ndarray, radius: float, wobble: float, *, stretch: float = 0.15, num: int = 28
) -> np.ndarray:
    """A closed wavy outline [num, 2] around ``centre``."""
    t = np.linspace(0, 2 * np.pi, num, endpoint=False)
    amplitude = canvas.rng.normal(0, wobble, 3) / np.arange(1, 4)
    phase = canvas.rng.uniform(0, 2 * np.pi, 3)
    r = radius * (1 + sum(a * np.cos((k + 2) * t + p) for k, (a, p) in enumerate(zip(amplitude, phase, strict=True))))
    longer = np.exp(canvas.rng.normal(0, stretch))
    turn = canvas.rng.uniform(0, np.pi)
    x, y = r * np.cos(t) * longer, r * np.sin(t) / longer
    return centre + np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)


def _fill(target: np.ndarray, outline: np.ndarray, value: float) -> None:
    cv2.fillPoly(target, [np.round(outline * 16).astype(np.int32)], value, cv2.LINE_8, 4)


def _glands(canvas: Canvas) -> None:
    """Rings of tall epithelium around a lumen; its nuclei stand at the outer side, pointing inwards."""
    for centre in canvas.centres(GLANDS, 105, 0.16):
        radius = canvas.px(canvas.rng.uniform(34, 47))
        outline = _blob(canvas, centre, radius, 0.09)
        lumen = centre + (outline - centre) * canvas.rng.uniform(0.28, 0.55)
        _fill(canvas.haematoxylin, outline, 0.17)
        _fill(canvas.eosin, outline, 0.30)
        _fill(canvas.haematoxylin, lumen, 0.02)
        _fill(canvas.eosin, lumen, 0.04)
        steps = np.roll(outline, -1, 0) - outline
        lengths = np.hypot(*steps.T)
        count = max(6, int(lengths.sum() / canvas.px(6.0)))
        at = np.interp(np.linspace(0, lengths.sum(), count, endpoint=False), np.cumsum(lengths) - lengths, range(28))
        ring = outline[at.astype(int)] + steps[at.astype(int)] * (at % 1)[:, None]
        inwards = centre - ring
        depth = canvas.rng.uniform(0.12, 0.24, (count, 1))
        angles = np.arctan2(inwards[:, 1], inwards[:, 0])
        canvas.draw_nuclei(ring + inwards * depth, 3.1, elongation=1.9, spread=0.12, depth=0.85, angles=angles)


def _adipose(canvas: Canvas) -> None:
    """Large empty cells, close-packed, with thin walls; here and there a flat nucleus in a wall."""
    points = canvas.centres(ADIPOSE, 62, 0.07)
    for centre in points:
        outline = _blob(canvas, centre, canvas.px(canvas.rng.uniform(32, 35)), 0.03, stretch=0.05, num=20)
        _fill(canvas.eosin, centre + (outline - centre) * 1.09, 0.42)
        _fill(canvas.eosin, outline, 0.05)
        _fill(canvas.haematoxylin, outline, 0.0)
    some = points[canvas.rng.random(len(points)) < 0.4]
    turn = canvas.rng.uniform(0, 2 * np.pi, len(some))
    rim = some + canvas.px(29.5) * np.stack([np.cos(turn), np.sin(turn)], 1)
    canvas.draw_nuclei(rim, 2.2, elongation=3.5, spread=0.15, depth=0.7, angles=turn + np.pi / 2)


def render(canvas: Canvas, stain: Stain, thickness: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3]: light through both stains, ``background * 10 ** -(concentration @ vectors)``.

    Then what the scanner makes of it: its point spread, and its sensor's noise. ``thickness`` is a coarse map (float32)
    that scales both stains and is 0 off the tissue.
    """
    height, width = canvas.shape
    pixels = np.empty((height, width, 3), np.uint8)
    decay = (-np.log(10) * stain.vectors).astype(np.float32)
    full = cv2.resize(thickness, None, fx=CELL_PX, fy=CELL_PX, interpolation=cv2.INTER_LINEAR)[:height, :width]
    for top in range(0, height, 256):
        rows = slice(top, min(top + 256, height))
        haematoxylin, eosin = canvas.haematoxylin[rows] * full[rows], canvas.eosin[rows] * full[rows]
        for channel in range(3):
            light = np.exp(haematoxylin * decay[0, channel] + eosin * decay[1, channel])
            light *= np.float32(stain.background[channel])
            pixels[rows, :, channel] = np.clip(light + np.float32(0.5), 0, 255)
    if stain.blur_um > 0:
        cv2.GaussianBlur(pixels, (0, 0), canvas.px(stain.blur_um), dst=pixels)
    for top in range(0, height, 256):
        rows = slice(top, min(top + 256, height))
        sensor = canvas.noise_rows(rows.start, rows.stop, shift=2) * np.float32(stain.noise) + np.float32(0.5)
        pixels[rows] = np.clip(pixels[rows] + sensor[..., None], 0, 255)
    return pixels
