"""What a step reads: tiles, their synthetic tiles, their partners; computed from the step's number alone.

Tiles are decoded by threads straight into one array and stay uint8. A background thread reads ahead; nothing about a
batch depends on how far.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from histogen.errors import ConfigError
from histogen.seeds import derive_seed, uniforms
from histogen.ssl.settings import DisSettings, GenSettings
from histogen.ssl.sources import MISSING, Interpolations, SyntheticTiles, check_matching
from histogen.store.tile_set import TileSet
from histogen.training.sampler import TileOrder
from histogen.training.transfer import host_pixels

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """One process's share of a step; pixels are uint8 [B, H, W, 3]."""

    indices: np.ndarray
    """Tiles, int64 [B]."""
    positions: np.ndarray
    """Places in the global batch, int64 [B]."""
    real: np.ndarray
    labels: np.ndarray | None = None
    """Codes of a label, int64 [B], negative where unknown: only for the journal."""
    generative: np.ndarray | None = None
    """The second source of views; the real tile where a tile has or uses none."""
    generative_first: np.ndarray | None = None
    """bool [B]: whether global view 1 is cut from ``generative``."""
    interpolated: np.ndarray | None = None
    interpolated_weight: np.ndarray | None = None
    """float32 [B]: 0 where a tile has no interpolated tile; the mean over the global batch is 1."""
    alpha: np.ndarray | None = None
    partner: np.ndarray | None = None
    """Place of the partner in this batch, int64 [B] (pairing ``matching``)."""
    partner_real: np.ndarray | None = None
    partner_generative: np.ndarray | None = None
    """Pixels of partners (pairing ``arbitrary``)."""

    def part(self, number: int, of: int) -> Batch:
        """Return part ``number`` of ``of`` equal parts; partners stay together."""
        size = len(self.indices) // of
        rows = slice(number * size, (number + 1) * size)
        values = {key: None if value is None else value[rows] for key, value in vars(self).items()}
        if self.partner is not None:
            values["partner"] = self.partner[rows] - number * size
        return Batch(**values)  # type: ignore[arg-type]


class BatchReader:
    """Reads the batch of a step, or the rows ``share`` of it: those of one of several processes.

    Pixels for a ``device`` that is a GPU come in pinned memory, so that the step need not copy them once more.
    """

    def __init__(
        self,
        tiles: TileSet,
        batch: int,
        *,
        seed: int,
        generative: SyntheticTiles | None = None,
        interpolations: Interpolations | None = None,
        gen: GenSettings | None = None,
        dis: DisSettings | None = None,
        share: slice | None = None,
        threads: int = 1,
        labels: np.ndarray | None = None,
        device: torch.device = HOST,
    ) -> None:
        self.labels, self.device = labels, device
        self.tiles, self.seed, self.threads = tiles, seed, max(1, threads)
        self.generative, self.interpolations = generative, interpolations
        self.gen, self.dis = gen or GenSettings(), dis or DisSettings()
        self.share = slice(0, batch) if share is None else share
        self.matching = interpolations is not None and self.dis.pairing == "matching"
        if self.matching:
            if batch % 2:
                raise ConfigError(f"a batch of {batch} cannot hold pairs; make optim.batch even")
            assert interpolations is not None
            num_pairs = check_matching(interpolations, len(tiles))
            if batch > 2 * num_pairs:
                raise ConfigError(
                    f"a batch of {batch} cannot be drawn from {2 * num_pairs} tiles in pairs; "
                    "set optim.batch to at most that or give more tiles"
                )
            self.order = TileOrder(num_pairs, batch // 2, derive_seed(seed, "order"))
        else:
            self.order = TileOrder(len(tiles), batch, derive_seed(seed, "order"))
        self.batch = batch
        self._pairs: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return self.order.steps_per_epoch

    def indices_of(self, step: int) -> np.ndarray:
        """Return the tiles of the global batch of ``step``, int64 [batch]; with matching, partners are neighbours."""
        chosen = self.order.batch(step)
        return self._pairs_of(self.order.epoch_of(step))[chosen].reshape(-1) if self.matching else chosen

    def __call__(self, step: int) -> Batch:
        """Read this process's share of ``step``."""
        indices = self.indices_of(step)[self.share]
        positions = np.arange(self.batch, dtype=np.int64)[self.share]
        real = self._read(self.tiles, indices)
        values: dict[str, np.ndarray] = {} if self.labels is None else {"labels": self.labels[indices]}
        if self.generative is not None:
            values |= self._generative(indices, positions, real, step)
        if self.interpolations is not None:
            values |= self._interpolated(indices, real, step)
        return Batch(indices, positions, real, **values)

    def _generative(self, indices: np.ndarray, positions: np.ndarray, real: np.ndarray, step: int) -> dict:
        assert self.generative is not None
        chance = uniforms(derive_seed(self.seed, "pair", step), positions, 2)
        chosen = self.generative.of(indices, self.order.epoch_of(step))
        use = (chosen != MISSING) & (chance[:, 0] < self.gen.probability)
        pixels = self._copy(real)
        pixels[use] = self._read(self.generative.synthetic, chosen[use])
        return {"generative": pixels, "generative_first": chance[:, 1] < self.gen.swap}

    def _interpolated(self, indices: np.ndarray, real: np.ndarray, step: int) -> dict:
        assert self.interpolations is not None
        epoch = self.order.epoch_of(step)
        chosen = self.interpolations.tiles.of(indices, epoch)
        present = chosen != MISSING
        pixels = self._copy(real)
        pixels[present] = self._read(self.interpolations.tiles.synthetic, chosen[present])
        alpha = np.where(present, self.interpolations.alpha[chosen], 1.0).astype(np.float32)
        values = {"interpolated": pixels, "interpolated_weight": self._weight(present, step), "alpha": alpha}
        if self.matching:
            return {**values, "partner": np.arange(len(indices)) ^ 1}
        partners = np.where(present, self.interpolations.partner[chosen], indices)
        values["partner_real"] = self._read(self.tiles, partners)
        if self.generative is not None and self.dis.mode != "alg1":
            theirs = self.generative.of(partners, epoch)
            second = self._copy(values["partner_real"])
            second[theirs != MISSING] = self._read(self.generative.synthetic, theirs[theirs != MISSING])
            values["partner_generative"] = second
        return values

    def _weight(self, present: np.ndarray, step: int) -> np.ndarray:
        """Return ``present`` [B] over the share of the global batch that has an interpolated tile."""
        assert self.interpolations is not None
        everywhere = self.interpolations.tiles.of(self.indices_of(step), self.order.epoch_of(step)) != MISSING
        return (present / max(float(everywhere.mean()), 1.0 / self.batch)).astype(np.float32)

    def _pairs_of(self, epoch: int) -> np.ndarray:
        assert self.interpolations is not None
        variant = epoch % self.interpolations.tiles.period
        if self._pairs is None or self._pairs[0] != variant:
            self._pairs = (variant, self.interpolations.matching(epoch, len(self.tiles))[: self.order.num_items])
        return self._pairs[1]

    def _read(self, tiles: TileSet, indices: np.ndarray) -> np.ndarray:
        out = host_pixels((len(indices), tiles.tile_px, tiles.tile_px, 3), self.device)
        return tiles.read_tiles(indices, threads=self.threads, out=out)

    def _copy(self, pixels: np.ndarray) -> np.ndarray:
        copied = host_pixels(pixels.shape, self.device)
        copied[:] = pixels
        return copied


class ReadAhead:
    """Calls ``reader(step)`` for the steps ahead in one background thread; ``depth`` 0 reads when asked."""

    def __init__(self, reader: BatchReader, *, num_steps: int, depth: int = 2) -> None:
        self.reader, self.num_steps, self.depth = reader, num_steps, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if depth else None
        self._ahead: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """Return the batch of ``step`` and start on the next ones."""
        if self._pool is None:
            return self.reader(step)
        for future_step in range(step, min(step + self.depth + 1, self.num_steps)):
            if future_step not in self._ahead:
                self._ahead[future_step] = self._pool.submit(self.reader, future_step)
        self._ahead = {s: future for s, future in self._ahead.items() if s >= step}
        return self._ahead.pop(step).result()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
