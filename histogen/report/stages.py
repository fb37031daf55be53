"""What a report is told about each stage: plain records of arrays, numbers and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.report.pictures import Picture

Tile = NDArray[np.uint8]
"""uint8 RGB [H, W, 3]."""


@dataclass(frozen=True)
class SlidePicture:
    """A slide, its thumbnail, some of the tiles kept, and where all of them lie.

    ``boxes`` [N, 4] are x, y, width, height of the kept tiles as fractions of the thumbnail; leave it out when the
    thumbnail shows them already.
    """

    slide_id: str
    num_tiles: int
    thumbnail: Picture | None = None
    tiles: Sequence[Tile] = ()
    boxes: NDArray[np.floating] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceRow:
    """A real tile and the generative tiles sampled from its embedding; ``consistency`` are their cosines with it."""

    source: Tile
    samples: Sequence[Tile]
    caption: str = ""
    consistency: Sequence[float] = ()


@dataclass(frozen=True)
class InterpolationRow:
    """Two real tiles and what was sampled between them; alpha is the weight of ``source`` (1 gives it back)."""

    source: Tile
    partner: Tile
    alphas: Sequence[float]
    samples: Sequence[Tile]
    caption: str = ""


@dataclass(frozen=True)
class QueryRow:
    """A tile and its nearest tiles under each encoder, with the class of each; the mappings are by encoder."""

    query: Tile
    label: str
    neighbours: Mapping[str, Sequence[Tile]]
    labels: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Neighbours:
    """Some queries, and over all tiles the share of the ``count`` nearest that have the query's class, by encoder."""

    rows: Sequence[QueryRow]
    shares: Mapping[str, float]
    count: int


@dataclass(frozen=True)
class Story:
    """The first screen, for a reader who has never heard of the method: sentences, and commands to type."""

    done: Sequence[str] = ()
    found: Sequence[str] = ()
    next: Sequence[str] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """One training run: its name and its ``metrics.jsonl``."""

    name: str
    metrics: Path


@dataclass(frozen=True)
class Training:
    """Runs to be drawn together, a chart per quantity; ``keys`` defaults to every quantity that they recorded."""

    title: str
    curves: Sequence[Curve]
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class StageTime:
    """One stage of a chain: how long it took, its one line, and a sentence for each unit that failed."""

    name: str
    seconds: float
    summary: str = ""
    failures: Sequence[str] = ()


@dataclass(frozen=True)
class RunReport:
    """Everything a page can show of a chain; what is left out is not shown.

    ``benchmark`` and ``fidelity`` are the contents of their JSON files, ``conditioning`` is what the run of the E-LDM
    recorded of the use of its conditioning; ``recognised`` is how often a probe names the class of real and of
    generative tiles; ``configs`` maps a stage's name to its YAML.
    """

    title: str
    subtitle: str = ""
    rooms: str = ""
    """Address, from the page, of a page of ``histogen view`` that was exported beside it."""
    story: Story | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    neighbours: Neighbours | None = None
    recognised: Mapping[str, Any] | None = None
    slides: Sequence[SlidePicture] = ()
    sources: Sequence[SourceRow] = ()
    interpolations: Sequence[InterpolationRow] = ()
    conditioning: Mapping[str, Any] | None = None
    training: Sequence[Training] = ()
    benchmark: Mapping[str, Any] | None = None
    fidelity: Mapping[str, Any] | None = None
    stages: Sequence[StageTime] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
