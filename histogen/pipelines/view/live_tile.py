"""The work of making one tile anew: the same networks, settings and passes as ``synthesize``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.diffusion.conditioning import slerp
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.diffusion.sampling import build_sampler
from histogen.diffusion.settings import SamplerSettings
from histogen.errors import ConfigError
from histogen.pipelines.precision import tiles_precision
from histogen.pipelines.view.job import Job
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_store import TileStore
from histogen.training.processes import resolve_device
from histogen.view.neighbours import embedding_of
from histogen.view.sources import recorded
from histogen.view.synthetic import origins
from histogen.view.tiles import Tiles

SAME_ALPHA = 1e-5
"""The page knows six digits of a row's alpha; what is as near to it means the row's own."""
_ONE_AT_A_TIME = threading.Lock()
"""A network tells each of its passes to the job that it works for."""


def make_tile(
    tiles: Tiles, position: int, row: int, alpha: float, seed: int, *, runs: Sequence[Path], device: str, job: Job
) -> bytes:
    """Return the JPEG of a tile like ``row`` of a synthetic store, with ``alpha`` and ``seed``; ``job`` is kept told.

    Raises:
        CancelledError: the job was cancelled.
        HistogenError: the E-LDM that made the store is not at hand, or an embedding is missing.
    """
    store = tiles.stores[position]
    own_alpha, own_seed = (store.read_rows(f"columns/{name}", [row])[0] for name in ("alpha", "seed"))
    is_own = abs(float(own_alpha) - alpha) < SAME_ALPHA
    embedding = _conditioning(tiles, position, row, torch.as_tensor(own_alpha if is_own else alpha))
    with _ONE_AT_A_TIME:
        image = _sample(_pipeline(store.path, tuple(runs), device), store, embedding, seed, job)
    payload = encode_jpeg(image, store.jpeg)
    if is_own and int(own_seed) == seed:
        job.same = payload == store.read_payload(row)
    return payload


def _sample(
    pipeline: EldmPipeline, store: TileStore, embedding: torch.Tensor, seed: int, job: Job
) -> NDArray[np.uint8]:
    settings = store.provenance
    sampler = SamplerSettings.model_validate(settings["sampler"])
    job.steps = len(build_sampler(sampler, pipeline.scheduler).timesteps)
    followed = pipeline.unet.register_forward_pre_hook(lambda *_: job.step())
    try:
        return pipeline(
            embedding[None], [seed], sampler=sampler, micro_batch=settings["micro_batch"],
            decode_batch=settings["decode_batch"], precision=tiles_precision(settings),
        )[0]  # fmt: skip
    finally:
        followed.remove()


def _conditioning(tiles: Tiles, position: int, row: int, alpha: torch.Tensor) -> torch.Tensor:
    """Return what a tile is made from, float32 [D]."""
    encoder = str(tiles.stores[position].provenance.get("encoder"))
    source, partner = (int(origins(tiles, position, who)[row]) for who in ("source", "partner"))
    if source < 0:
        raise ConfigError("its source is not among the stores that were given; add its store")
    first = torch.from_numpy(embedding_of(tiles, source, encoder))
    if partner < 0:
        return first
    return slerp(first[None], torch.from_numpy(embedding_of(tiles, partner, encoder))[None], alpha[None])[0]


@lru_cache(maxsize=1)
def _pipeline(path: Path, runs: Sequence[Path], device: str) -> EldmPipeline:
    """Return the E-LDM that made a store: where its run was told, or among the runs that were given.

    Raises:
        ConfigError: none of them is the one.
    """
    wanted = TileStore.open_(path).provenance.get("eldm_weights_sha256")
    said = [config["eldm"] for folder in (path.parent, path) if (config := recorded(folder)).get("eldm")]
    for run in dict.fromkeys([*(Path(str(one)) for one in said), *runs]):
        if not (run / "pipeline" / "model_index.json").is_file():
            continue
        pipeline = load_pipeline(run, resolve_device(device))
        if pipeline_sha256(pipeline) == wanted:
            return pipeline
    raise ConfigError(f"the E-LDM that made '{path.name}' is not at hand; add its run folder to the command")
