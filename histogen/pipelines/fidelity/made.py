"""What a fidelity run makes itself, by the pipeline and the settings of the stores it judges: pictures and a baseline.

Pictures: some sources, each with several tiles from its embedding; and rows from one tile to another by alpha, on one
noise a row, so that only alpha changes along it. Baseline: tiles from the null, which know of no source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.diffusion.conditioning import slerp
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.diffusion.settings import SamplerSettings
from histogen.encoders.base import Encoder
from histogen.errors import ConfigError, StoreError
from histogen.pipelines.embed.command import embed_images
from histogen.pipelines.precision import rows_precision, tiles_precision
from histogen.progress import progress_bar
from histogen.report.page import Section
from histogen.report.samples import interpolation_section, synthesis_section
from histogen.report.stages import InterpolationRow, SourceRow
from histogen.seeds import derive_seed, numpy_rng
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

NUM_SOURCES, PER_SOURCE, NUM_PAIRS = 16, 3, 8
ALPHAS = (1.0, 0.75, 0.5, 0.25, 0.0)
GROUP = 256


@dataclass(frozen=True)
class Maker:
    """An E-LDM with the settings that the judged stores were made with."""

    pipeline: EldmPipeline
    settings: Mapping[str, Any]

    @classmethod
    def open_(cls, eldm: Path, synthetic: Mapping[str, TileSet], device: str) -> Maker:
        """Load the E-LDM in ``eldm``, and read the settings of the first of ``synthetic``.

        Raises:
            ConfigError: a set was not made by it.
        """
        pipeline = load_pipeline(eldm, device)
        digest, provenances = pipeline_sha256(pipeline), {n: s.stores[0].provenance for n, s in synthetic.items()}
        for name, provenance in provenances.items():
            if provenance.get("eldm_weights_sha256") != digest:
                raise ConfigError(f"'{eldm}' is not the E-LDM that made '{name}'; give the one that did, or none")
        return cls(pipeline, next(iter(provenances.values())))

    def check_embedded(self, real: TileSet, coming: Collection[str]) -> None:
        """Raise StoreError unless ``real`` has the embeddings that condition the E-LDM, or they are ``coming``."""
        name = str(self.pipeline.config["encoder_name"])
        if name not in {*real.embedding_names, *coming}:
            raise StoreError(f"the tiles have no embeddings by '{name}', which condition the E-LDM; run embed on them")

    def make(self, embeddings: torch.Tensor, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return one tile per embedding [B, D], uint8 [B, H, W, 3], as ``synthesize`` would."""
        return self._run(embeddings, seeds, SamplerSettings.model_validate(self.settings["sampler"]), told=True)

    def make_untold(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return one tile per seed, conditioned on the null; guidance has nothing to guide towards."""
        sampler = SamplerSettings.model_validate({**self.settings["sampler"], "guidance": 1.0})
        nothing = torch.ones(len(seeds), self.pipeline.conditioner.config["embedding_dim"])
        return self._run(nothing, seeds, sampler, told=False)

    def _run(
        self, embeddings: torch.Tensor, seeds: Sequence[int], sampler: SamplerSettings, *, told: bool
    ) -> NDArray[np.uint8]:
        return self.pipeline(
            embeddings, seeds, sampler=sampler, unconditional=not told, precision=tiles_precision(self.settings),
            micro_batch=self.settings["micro_batch"], decode_batch=self.settings["decode_batch"],
        )  # fmt: skip


def unconditional_embeddings(
    maker: Maker, count: int, encoders: Mapping[str, Encoder], *, like: TileStore, seed: int
) -> dict[str, Any]:
    """Return by name of encoder the embeddings float32 [count, D] of ``count`` unconditional tiles.

    They are embedded in the precision of the embeddings in ``like``.
    """
    precisions = {
        name: rows_precision(like, f"embeddings/{encoder.card.name}") or "float32" for name, encoder in encoders.items()
    }
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    with progress_bar("unconditional", total=count, unit="tiles") as bar:
        for start in range(0, count, GROUP):
            seeds = [derive_seed(seed, "unconditional", k) for k in range(start, min(start + GROUP, count))]
            images = maker.make_untold(seeds)
            for name, encoder in encoders.items():
                found[name].append(embed_images(encoder, images, precision=precisions[name]))
            bar.advance(len(seeds))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def made_sections(maker: Maker, real: TileSet, sources: NDArray[np.int64], *, seed: int) -> list[Section]:
    """Return pictures of tiles made from, and between, some of ``sources`` (rows of ``real``)."""
    name = str(maker.pipeline.config["encoder_name"])
    known = numpy_rng(seed, "fidelity pictures").permutation(np.unique(sources))
    shown = np.sort(known[:NUM_SOURCES])
    sections = [_generative(maker, real, shown, name, seed)]
    ends = known[: 2 * min(NUM_PAIRS, len(known) // 2)].reshape(2, -1)
    return [*sections, _interpolated(maker, real, ends, name, seed)] if ends.size else sections


def _generative(maker: Maker, real: TileSet, shown: NDArray[np.int64], encoder: str, seed: int) -> Section:
    ids = real.ids(shown)
    embeddings = torch.from_numpy(real.read_rows(f"embeddings/{encoder}", np.repeat(shown, PER_SOURCE))).float()
    seeds = [derive_seed(seed, "picture", identity, k) for identity in ids for k in range(PER_SOURCE)]
    made = maker.make(embeddings, seeds)
    rows = [
        SourceRow(real[int(row)], list(made[PER_SOURCE * i : PER_SOURCE * (i + 1)]), ids[i])
        for i, row in enumerate(shown)
    ]
    return synthesis_section(rows)


def _interpolated(maker: Maker, real: TileSet, ends: NDArray[np.int64], encoder: str, seed: int) -> Section:
    """``ends`` [2, P]: rows of the source and the partner of each pair."""
    first, second = (torch.from_numpy(real.read_rows(f"embeddings/{encoder}", end)).float() for end in ends)
    between = torch.stack([slerp(first, second, alpha) for alpha in ALPHAS], dim=1)
    ids = [" and ".join(real.ids(pair)) for pair in ends.T]
    seeds = [derive_seed(seed, "picture between", pair) for pair in ids for _ in ALPHAS]
    made = maker.make(between.flatten(0, 1), seeds).reshape(len(ids), len(ALPHAS), *([real.tile_px] * 2), 3)
    rows = [
        InterpolationRow(real[int(a)], real[int(b)], ALPHAS, list(tiles), pair)
        for a, b, tiles, pair in zip(*ends, made, ids, strict=True)
    ]
    return interpolation_section(rows)
