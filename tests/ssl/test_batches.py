"""Which tiles a step reads and which views it cuts from them: every tile's gray says who it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histogen.errors import ConfigError, StoreError
from histogen.ssl.augment import Normalisation
from histogen.ssl.batches import Batch, BatchReader, ReadAhead
from histogen.ssl.settings import AugmentSettings, CropSettings, DisSettings, GenSettings, ModelSettings, SslSettings
from histogen.ssl.sources import check_matching, link_interpolated, link_synthetic
from histogen.ssl.views import ViewMaker
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

NUM, PX = 12, 8
REAL, FIRST, SECOND, BETWEEN = 0, 12, 24, 36
"""Gray over 5 of real tile 0, of the first and second generative tile of tile 0, of its interpolated tile."""


def write(path: Path, numbers: np.ndarray, kind: str, **columns: object) -> TileSet:
    store = TileStore.create(
        path, kind=kind, store_id=path.stem, tile_px=PX, mpp=0.5, num_tiles=len(numbers), provenance={}, columns=columns
    )
    payloads = [encode_jpeg(np.full((PX, PX, 3), 5 * number, np.uint8)) for number in numbers]
    store.commit("tiles", 0, store.write_tiles(0, payloads))
    return TileSet.open_(path)


def columns(source: np.ndarray, partner: np.ndarray) -> dict[str, object]:
    same = Column(np.zeros(len(source), np.int32), ["real"])
    return {
        "source_store": same, "source_index": source, "partner_store": same, "partner_index": partner,
        "alpha": ((1 + source) / 20).astype(np.float32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TileSet]:
    """Real tiles; two generative tiles each; one interpolated each with partner ± 6."""
    folder, rows = tmp_path_factory.mktemp("sets"), np.arange(NUM)
    generative, twice = np.concatenate([FIRST + rows, SECOND + rows]), np.concatenate([rows, rows])
    return {
        "real": write(folder / "real.zarr", rows, "slide"),
        "generative": write(folder / "gen.zarr", generative, "generative", **columns(twice, twice)),
        "interpolated": write(folder / "int.zarr", BETWEEN + rows, "interpolated", **columns(rows, (rows + 6) % NUM)),
    }


def who(pixels: np.ndarray) -> list[int]:
    """Which tiles these are."""
    return np.rint(pixels.reshape(len(pixels), -1).mean(1) / 5).astype(int).tolist()


def reader(sets: dict[str, TileSet], batch: int = 4, **more: object) -> BatchReader:
    return BatchReader(
        sets["real"], batch, seed=3, generative=link_synthetic(sets["real"], sets["generative"], what="generative"),
        interpolations=link_interpolated(sets["real"], sets["interpolated"]), **more,
    )  # type: ignore[arg-type] # fmt: skip


@pytest.mark.parametrize("pairing", ["matching", "arbitrary"])
def test_every_part_of_a_batch_belongs_to_its_tile(sets: dict[str, TileSet], pairing: str) -> None:
    read, seen = reader(sets, dis=DisSettings(pairing=pairing)), []
    for step in range(6):
        batch, epoch = read(step), step // 3
        tiles = batch.indices
        seen += tiles.tolist()
        assert who(batch.real) == tiles.tolist()
        assert who(batch.generative) == (tiles + (FIRST, SECOND)[epoch]).tolist()  # the k-th in the k-th epoch
        assert who(batch.interpolated) == (BETWEEN + tiles).tolist()
        np.testing.assert_allclose(batch.alpha, (1 + tiles) / 20, rtol=1e-6)
        partners = (tiles + 6) % NUM
        if pairing == "matching":
            assert tiles[batch.partner].tolist() == partners.tolist()
            assert batch.partner_real is None
        else:
            assert who(batch.partner_real) == partners.tolist()
            assert who(batch.partner_generative) == (partners + (FIRST, SECOND)[epoch]).tolist()
    assert sorted(seen[:NUM]) == sorted(seen[NUM:]) == list(range(NUM))
    assert seen[:NUM] != seen[NUM:]


def test_processes_passes_and_reading_ahead_share_one_batch(sets: dict[str, TileSet]) -> None:
    whole = reader(sets)(4)
    halves = [reader(sets, share=share)(4) for share in (slice(0, 2), slice(2, 4))]
    parts = [whole.part(p, 2) for p in (0, 1)]
    ahead = ReadAhead(reader(sets, threads=2), num_steps=6)
    for step in (3, 4):  # beginning in the middle, as a resumed run does
        later = ahead(step)
    ahead.close()
    for key in ("indices", "positions", "real", "generative", "generative_first", "interpolated", "alpha"):
        expected = getattr(whole, key)
        for found in (halves, parts):
            np.testing.assert_array_equal(np.concatenate([getattr(part, key) for part in found]), expected)
        np.testing.assert_array_equal(getattr(later, key), expected)
    for part in (*halves, *parts):
        assert part.indices[part.partner].tolist() == ((part.indices + 6) % NUM).tolist()


def test_synthetic_views_are_used_as_often_as_asked(sets: dict[str, TileSet]) -> None:
    read = reader(sets, batch=12, gen=GenSettings(probability=0.3, swap=0.2))
    batches = [read(step) for step in range(100)]
    used = np.mean([np.array(who(b.generative)) != np.array(who(b.real)) for b in batches])
    assert used == pytest.approx(0.3, abs=0.04)
    assert np.mean([b.generative_first for b in batches]) == pytest.approx(0.2, abs=0.04)


STILL = AugmentSettings(
    jitter=0.0, grayscale=0.0, blur=(0.0, 0.0, 0.0), solarize=(0.0, 0.0, 0.0), flip=0.0
)  # fmt: skip


@pytest.mark.parametrize(("locals_", "expected"), [("split", "rrgg"), ("real", "rrrr"), ("generative", "gggg")])
def test_views_are_cut_from_the_tile_that_the_settings_name(locals_: str, expected: str) -> None:
    settings = SslSettings(
        model=ModelSettings(arguments={"patch_size": 8}), augment=STILL, gen=GenSettings(locals=locals_),
        crops=CropSettings(global_px=8, local_px=8, num_local=4),
    )  # fmt: skip
    make = ViewMaker(settings, Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), torch.device("cpu"))
    rows, black = np.arange(2), np.zeros((2, PX, PX, 3), np.uint8)
    first = np.array([False, True])
    views = make(
        Batch(rows, rows, black, generative=black + 255, generative_first=first, interpolated=black + 51), seed=0
    )
    assert views.locals is not None
    assert views.interpolated is not None
    np.testing.assert_allclose(views.globals.mean((2, 3, 4)), [[0, 1], [1, 0]])
    for b in range(2):
        assert "".join("rg"[round(v)] for v in views.locals[:, b].mean((1, 2, 3)).tolist()) == expected
    np.testing.assert_allclose(views.interpolated.mean((2, 3, 4)), np.full((2, 2), 0.2), atol=1e-6)


def test_a_store_of_sources_that_was_made_anew_is_refused(tmp_path: Path) -> None:
    """The generative store is `synthesize`'s: it names its source's bytes, which are others now, though as many."""
    rows = np.arange(NUM)
    same = write(tmp_path / "same" / "real.zarr", rows, "slide")
    store = TileStore.create(
        tmp_path / "g.zarr", kind="generative", store_id="g", tile_px=PX, mpp=0.5, num_tiles=NUM,
        provenance={"source_sha256": same.stores[0].content_hash}, columns=columns(rows, rows),
    )  # fmt: skip
    store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(np.zeros((PX, PX, 3), np.uint8))] * NUM))
    made = TileSet.open_(store.path)
    assert link_synthetic(same, made, what="generative").of(rows, 0).tolist() == rows.tolist()
    half = same.subset(rows[::2])
    assert link_synthetic(half, made, what="generative").of(np.arange(6), 0).tolist() == rows[::2].tolist()
    for numbers in (rows[:-2], rows[::-1]):
        again = write(tmp_path / f"again{len(numbers)}" / "real.zarr", numbers, "slide")
        with pytest.raises(StoreError, match=r"made from other tiles than '.*real.zarr' holds now; synthesize"):
            link_synthetic(again, made, what="generative")


def test_tiles_with_different_numbers_of_interpolated_tiles_have_their_pairs_in_every_epoch(tmp_path: Path) -> None:
    """Tiles 0 and 1 have two, 2 and 3 have three, whose third pairs nobody: six epochs until all is as it was."""
    source = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    partner = np.array([1, 1, 0, 0, 3, 3, 0, 2, 2, 1])
    real = write(tmp_path / "real.zarr", np.arange(4), "slide")
    linked = link_interpolated(real, write(tmp_path / "i.zarr", source, "interpolated", **columns(source, partner)))
    assert linked.tiles.period == 6
    assert [len(linked.matching(epoch, 4)) for epoch in range(6)] == [2, 2, 1, 2, 2, 1]
    with pytest.raises(ConfigError, match="only 2 of 4 tiles are their partner's partner"):
        check_matching(linked, 4)


def test_where_leaves_each_tile_its_own_synthetic_tile(sets: dict[str, TileSet]) -> None:
    """Chosen tiles have other positions than in their store, and the synthetic stores hold tiles of the others too."""
    chosen = sets["real"].subset(np.array([1, 2, 5, 7, 8, 11]))
    partners = {1: 7, 7: 1, 2: 8, 8: 2, 5: 11, 11: 5}
    read = BatchReader(
        chosen, 4, seed=1, generative=link_synthetic(chosen, sets["generative"], what="generative"),
        interpolations=link_interpolated(chosen, sets["interpolated"]), dis=DisSettings(pairing="arbitrary"),
    )  # fmt: skip
    for step in range(4):
        batch = read(step)
        tiles = np.array(who(batch.real))
        assert set(tiles.tolist()) <= set(partners)
        assert who(batch.generative) == (tiles + (FIRST, SECOND)[step % 2]).tolist()  # an epoch is one step of four
        assert who(batch.interpolated) == (BETWEEN + tiles).tolist()
        assert who(batch.partner_real) == [partners[tile] for tile in tiles.tolist()]
        np.testing.assert_allclose(batch.alpha, (1 + tiles) / 20, rtol=1e-6)


def test_absent_interpolated_tiles_weigh_nothing_and_the_others_the_same_on_every_process(
    sets: dict[str, TileSet], tmp_path: Path
) -> None:
    """Of twelve tiles three have none: wherever they fall, the weights of the two halves of a batch average to one."""
    rows = np.array([0, 1, 2, 3, 5, 6, 7, 8, 10])
    made = write(tmp_path / "part.zarr", BETWEEN + rows, "interpolated", **columns(rows, (rows + 6) % NUM))
    linked = link_interpolated(sets["real"], made, allow_missing=True)
    arbitrary = DisSettings(pairing="arbitrary")
    halves = [
        BatchReader(sets["real"], NUM, seed=3, interpolations=linked, dis=arbitrary, share=share)(0)
        for share in (slice(0, 6), slice(6, 12))
    ]
    weights = np.concatenate([half.interpolated_weight for half in halves])  # type: ignore[misc]
    tiles = np.concatenate([half.indices for half in halves])
    np.testing.assert_allclose(weights, np.where(np.isin(tiles, rows), 12 / 9, 0.0), rtol=1e-6)
    assert len({half.interpolated_weight.sum() for half in halves}) == 2, "the halves have as many: no test"
