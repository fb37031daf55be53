"""Exports read back by the libraries of the formats, and features brought back into a store."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histogen
from histogen.config import load_config
from histogen.errors import ConfigError, MissingDependencyError, OutputExistsError, StoreError
from histogen.pipelines.export import ExportConfig, run
from histogen.pipelines.import_features import ImportFeaturesConfig, match_corners
from histogen.pipelines.import_features import run as import_features
from histogen.store.export_rows import needed
from histogen.store.jpeg import JpegSettings, complete_jpeg, encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.testing.contracts import drawn_tiles

COUNT, TILE_PX, ABSENT = 12, 16, 4
SLIDE = {"name": "S.1.svs", "mpp": [0.2325, 0.2325], "objective_power": 40.0, "extent": [7000, 1500],
         "bounds_l0": [100, 50, 6800, 1400]}  # fmt: skip
KEPT = [i for i in range(COUNT) if i != ABSENT]


def write_store(folder: Path, store_id: str = "S.1", *, kind: str = "slide", embeddings: bool = True) -> TileStore:
    names = ["tumour" if i % 2 else None for i in range(COUNT)]
    columns = {"label": Column.categorical(names), "focus": np.full(COUNT, np.nan, np.float32)}
    if kind == "slide":
        columns |= {"x_l0": 550.5 * np.arange(COUNT), "y_l0": 550.5 * (np.arange(COUNT) % 3)}
    else:
        columns |= {"path": Column.text([f"{i}.png" for i in range(COUNT)])}
    store = TileStore.create(
        folder / f"{store_id}.zarr", kind=kind, store_id=store_id, tile_px=TILE_PX, mpp=0.5, num_tiles=COUNT,
        provenance={"slide": SLIDE, "grid": {"stride_px": 12}} if kind == "slide" else {}, columns=columns,
    )  # fmt: skip
    payloads: list[bytes | None] = [encode_jpeg(tile) for tile in drawn_tiles(COUNT, TILE_PX)]
    payloads[ABSENT] = None
    store.commit("tiles", 0, store.write_tiles(0, payloads))
    if embeddings:
        store.create_rows("embeddings/e", (COUNT, 3), "float16")
        store.write_all_rows("embeddings/e", vectors().astype(np.float16))
        store.commit("embeddings/e", 0, {})
    return store


def vectors() -> np.ndarray:
    return np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3)


def exported(store: TileStore, out: Path, format_: str, **settings: object) -> Path:
    outcome = run(ExportConfig(tiles=[store.path], format=format_, out=out, **settings))
    assert not outcome.failures
    inner = {"trident": "*/features_*", "clam": "h5_files"}.get(format_, ".")
    return next(path for path in out.glob(f"{inner}/*") if path.name.startswith(store.store_id))


CORNERS = [[round(550.5 * i), round(550.5 * (i % 3))] for i in KEPT]


def test_tridents_folder_is_what_trident_reads(tmp_path: Path) -> None:
    """Its slide encoders read the features, the corners and their attributes; its patch encoders the corners."""
    h5py = pytest.importorskip("h5py")
    file = exported(write_store(tmp_path), tmp_path / "out", "trident")
    folder = tmp_path / "out" / "20x_16px_4px_overlap"  # magnification, side and overlap at that magnification
    assert file == folder / "features_e" / "S.1.h5"
    with h5py.File(file) as h5:
        np.testing.assert_array_equal(h5["features"][:], vectors()[KEPT])
        assert h5["features"].dtype == np.float32
    for path in (file, folder / "patches" / "S.1_patches.h5"):
        with h5py.File(path) as h5:
            attributes = dict(h5["coords"].attrs)
            np.testing.assert_array_equal(h5["coords"][:], CORNERS)
            assert h5["coords"].dtype == np.int64
        assert attributes == {
            "patch_size": 16, "patch_size_level0": round(16 * 0.5 / 0.2325), "level0_magnification": 40,
            "target_magnification": 20, "overlap": 4, "name": "S.1", "level0_width": 7000, "level0_height": 1500,
        }  # fmt: skip


def test_clams_folder_is_what_clam_and_trident_read(tmp_path: Path) -> None:
    """CLAM trains on pt_files, or on h5_files; it cuts patch_size pixels of patch_level at coords of level 0."""
    h5py, torch = pytest.importorskip("h5py"), pytest.importorskip("torch")
    store = write_store(tmp_path)
    file = exported(store, tmp_path / "out", "clam", images=True)
    assert file == tmp_path / "out" / "h5_files" / "S.1.h5"
    bag = torch.load(tmp_path / "out" / "pt_files" / "S.1.pt", weights_only=True)
    assert (type(bag), bag.dtype) == (torch.Tensor, torch.float32)
    np.testing.assert_array_equal(bag.numpy(), vectors()[KEPT])
    with h5py.File(file) as h5:
        np.testing.assert_array_equal(h5["features"][:], bag.numpy())
        np.testing.assert_array_equal(h5["coords"][:], CORNERS)
        np.testing.assert_array_equal(h5["imgs"][:], TileSet.open_(store.path).read_tiles(np.arange(11)))
        said = dict(h5["coords"].attrs)
    assert (said["patch_size"], said["patch_level"], said["downsample"].tolist()) == (34, 0, [1, 1])
    assert said["level_dim"].tolist() == said["downsampled_level_dim"].tolist() == [7000, 1500]
    # TRIDENT's: patch_size pixels at target_magnification are patch_size_level0 of level 0
    side = said["patch_size"] * said["level0_magnification"] // said["target_magnification"]
    assert side == said["patch_size_level0"] == round(16 * 0.5 / 0.2325)
    assert said["overlap"] == round(4 * 0.5 / 0.2325)


@pytest.mark.parametrize("format_", ["trident", "clam"])
def test_features_come_back_as_they_went(tmp_path: Path, format_: str) -> None:
    pytest.importorskip("h5py")
    store = write_store(tmp_path / "a")
    payloads = [store.read_payload(0)] * COUNT
    whole = TileStore.open_(store.path)
    whole.commit("tiles", 0, whole.write_tiles(0, payloads))  # every tile is there, so every tile has a feature
    exported(whole, tmp_path / "h5", format_)
    other = write_store(tmp_path / "b", embeddings=False)
    config = ImportFeaturesConfig(tiles=[other.path], features=tmp_path / "h5", name="uni")
    assert not import_features(config).failures
    np.testing.assert_array_equal(TileStore.open_(other.path).read_rows("embeddings/uni"), vectors())
    assert histogen.open_tiles(other.path).embedding_names == ["uni"]
    with pytest.raises(OutputExistsError, match="has embeddings/uni; pass --resume"):
        import_features(config)
    assert "1 of 1" in import_features(config.model_copy(update={"resume": True})).summary
    other.write_all_rows("embeddings/uni", np.zeros((COUNT, 3), np.float32))
    assert not import_features(config.model_copy(update={"overwrite": True})).failures
    np.testing.assert_array_equal(TileStore.open_(other.path).read_rows("embeddings/uni"), vectors())


def test_of_several_features_in_a_folder_one_must_be_named(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    store = write_store(tmp_path)
    file = exported(store, tmp_path / "job", "trident")
    other = file.parents[1] / "features_f"
    other.mkdir()
    (other / file.name).write_bytes(file.read_bytes())
    config = ImportFeaturesConfig(tiles=[store.path], features=tmp_path / "job", name="f")
    with pytest.raises(StoreError, match=r"'20x_16px_4px_overlap/features_e', '20x_.*/features_f'; give one of these"):
        import_features(config)
    assert not import_features(config.model_copy(update={"features": other})).failures


def test_features_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    store = write_store(tmp_path, embeddings=False)
    config = ImportFeaturesConfig(tiles=[store.path], features=tmp_path / "h5", name="uni")
    with pytest.raises(ConfigError, match="h5' is no folder; give the one with a file for each slide, <slide_id>.h5"):
        import_features(config)
    (tmp_path / "h5").mkdir()
    assert "does not exist" in import_features(config).failures[0]
    with h5py.File(tmp_path / "h5" / "S.1.h5", "w") as h5:
        h5["features"], h5["coords"] = np.zeros((1, 3)), np.zeros((1, 2))
    assert "has no feature for 10 of 12 tiles, the first at [550.5, 550.5]" in import_features(config).failures[0]
    (tmp_path / "h5" / "S.1.h5").write_text("x")
    assert "is not a feature file" in import_features(config).failures[0]
    assert store.list_rows("embeddings") == []


def write_features(file: Path, places: np.ndarray, values: np.ndarray, **said: object) -> None:
    import h5py

    file.parent.mkdir(exist_ok=True)
    with h5py.File(file, "w") as h5:
        h5["features"], h5["coords"] = values, places
        h5["coords"].attrs.update(said)


def test_features_are_matched_by_place_and_size_and_none_is_lost_unsaid(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    store = write_store(tmp_path, embeddings=False)
    config = ImportFeaturesConfig(tiles=[store.path], features=tmp_path / "h5", name="uni")
    file, side = tmp_path / "h5" / "S.1.h5", round(TILE_PX * 0.5 / 0.2325)
    places = np.array([[round(550.5 * i), round(550.5 * (i % 3))] for i in KEPT])

    def refused(*what: np.ndarray, **said: object) -> str:
        write_features(file, *what, **said)
        outcome = import_features(config)
        assert outcome.exit_code == 1
        assert store.list_rows("embeddings") == []
        return outcome.failures[0]

    values = vectors()[KEPT]
    assert "patches of 17 px of level 0, the tiles of store 'S.1' are 34.4086 px" in refused(
        places, values, patch_size_level0=side // 2
    )
    assert "patches of 68 px" in refused(places, values, patch_size=2 * side, patch_level=0)
    for broken in (np.nan, np.inf, 1e300):
        wrong = values.astype(np.float64)
        wrong[[3, 5], 1] = broken
        assert "2 of 11 features that are not finite, the first in row 3" in refused(
            places, wrong, patch_size_level0=side
        )
    twice = np.concatenate([places, places[2:3]]), np.concatenate([values, values[2:3] + 1])
    assert "2 features at [1101, 1101] px of level 0 that differ (rows 2, 11)" in refused(
        *twice, patch_size_level0=side
    )
    more = np.concatenate([places, places[:4] + 9]), np.concatenate([values, values[:4]])
    write_features(file, *more, patch_size_level0=side)
    assert "; 4 features lie where no tile is and were not used (4 of them of 'S.1')" in import_features(config).summary
    expected = np.zeros((COUNT, 3), np.float32)
    expected[KEPT] = values  # of a tile that is absent nothing is asked
    np.testing.assert_array_equal(TileStore.open_(store.path).read_rows("embeddings/uni"), expected)
    write_features(file, places, values)
    again = config.model_copy(update={"overwrite": True})
    assert "do not state the size of their patches" in import_features(again).summary
    assert "patches of 68 px" in import_features(again.model_copy(update={"patch_size_l0": 68.0})).failures[0]


@pytest.mark.parametrize("spoil", ["missing", "truncated", "nan", "elsewhere"])
def test_overwrite_keeps_the_old_features_until_the_new_are_known_good(tmp_path: Path, spoil: str) -> None:
    pytest.importorskip("h5py")
    store = write_store(tmp_path)
    file = exported(store, tmp_path / "h5", "clam")
    config = ImportFeaturesConfig(tiles=[store.path], features=tmp_path / "h5", name="uni")
    assert not import_features(config).failures
    before = TileStore.open_(store.path).read_rows("embeddings/uni")
    whole = file.read_bytes()
    file.unlink()
    if spoil == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    if spoil in ("nan", "elsewhere"):
        shift = 40 if spoil == "elsewhere" else 0
        values = np.full((COUNT, 3), np.nan if spoil == "nan" else 1.0)
        write_features(file, np.array([[550 * i + shift, 550 * (i % 3)] for i in range(COUNT)]), values)
    assert import_features(config.model_copy(update={"overwrite": True})).exit_code == 1
    after = TileStore.open_(store.path)
    assert after.is_complete("embeddings/uni")
    np.testing.assert_array_equal(after.read_rows("embeddings/uni"), before)


def test_corners_are_matched_within_the_tolerance_only() -> None:
    corners = np.array([[0.4, 0.0], [100.0, 50.0], [7.0, 7.0]])
    coords = np.array([[100, 51], [0, 0], [9, 7]])
    assert match_corners(corners, coords, 1.0).tolist() == [1, 0, -1]
    assert match_corners(corners, coords[:0], 1.0).tolist() == [-1, -1, -1]


def test_a_webdataset_holds_the_jpegs_byte_for_byte(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    file = exported(store, tmp_path / "out", "webdataset")
    with tarfile.open(file) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(files)[:3] == ["S_1-00000000.jpg", "S_1-00000000.json", "S_1-00000000.npy"]
    assert len(files) == 3 * len(KEPT)
    for index in KEPT:
        key = f"S_1-{index:08d}"
        assert files[f"{key}.jpg"] == store.read_payload(index)
        facts = json.loads(files[f"{key}.json"])
        assert facts["id"] == f"S.1:{index}"
        assert facts["label"] == ("tumour" if index % 2 else None)
        assert facts["x_l0"] == 550.5 * index
        assert facts["focus"] is None
        np.testing.assert_array_equal(np.load(io.BytesIO(files[f"{key}.npy"])), vectors()[index])
    again = exported(store, tmp_path / "again", "webdataset")
    assert again.read_bytes() == file.read_bytes()


def test_geojson_is_what_qupath_reads(tmp_path: Path) -> None:
    """As QuPath's reader does: objectType, classification.name, numbers in measurements, texts in metadata."""
    store = write_store(tmp_path / "a")
    scores = np.where(np.arange(COUNT) == 2, np.nan, 0.123456789 * np.arange(COUNT)).astype(np.float32)
    store.create_rows("columns/tumour_score", (COUNT,), "float32")
    store.write_all_rows("columns/tumour_score", scores)
    store.commit("columns/tumour_score", 0, {})
    content = json.loads(exported(store, tmp_path / "out", "geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert len(content["features"]) == len(KEPT)
    side = 16 * 0.5 / 0.2325
    for i, feature in zip(KEPT, content["features"], strict=True):
        said = feature["properties"]
        assert (feature["type"], said["objectType"]) == ("Feature", "tile")
        assert said.get("classification") == ({"name": "tumour"} if i % 2 else None)
        measured = {k: float(v) for k, v in said.get("measurements", {}).items()}
        assert measured == ({} if i == 2 else {"tumour_score": pytest.approx(scores[i], rel=1e-5)})
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        x, y = 550.5 * i - 100, 550.5 * (i % 3) - 50  # QuPath counts from the corner of what was scanned
        np.testing.assert_allclose([min(ring), max(ring)], [[x, y], [x + side, y + side]])
    refused = ExportConfig(tiles=[store.path], format="geojson", out=tmp_path / "no", encoder="e")
    assert "GeoJSON holds no embeddings ('e')" in run(refused).failures[0]


def test_parquet_holds_a_row_per_tile(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store = write_store(tmp_path, "photos", kind="natural")
    table = parquet.read_table(exported(store, tmp_path / "out", "parquet", images=True))
    assert table["id"].to_pylist() == [f"photos:{i}" for i in KEPT]
    assert table["path"].to_pylist() == [f"{i}.png" for i in KEPT]
    assert table["label"].to_pylist() == ["tumour" if i % 2 else None for i in KEPT]
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist()), vectors()[KEPT])
    assert table["image"].to_pylist() == [store.read_payload(i) for i in KEPT]
    assert json.loads(table.schema.metadata[b"histogen"])["store_id"] == "photos"


def test_anndata_holds_embeddings_labels_and_centres(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    store = write_store(tmp_path)
    table = anndata.read_h5ad(exported(store, tmp_path / "out", "anndata"))
    np.testing.assert_array_equal(table.X, vectors()[KEPT])
    assert list(table.obs_names) == [f"S.1:{i}" for i in KEPT]
    assert list(table.obs["label"].cat.categories) == ["tumour"]
    assert table.obs["label"].isna().tolist() == [i % 2 == 0 for i in KEPT]
    half = 16 * 0.5 / 0.2325 / 2
    np.testing.assert_allclose(table.obsm["spatial"][:, 0], 550.5 * np.array(KEPT) + half)
    assert table.obs["tile_id"].tolist() == KEPT
    assert set(table.obs["library_id"]) == set(table.uns["spatial"]) == {"S.1"}


def test_anndata_says_where_tiles_are_as_scanpy_spatialdata_and_lazyslide_do(tmp_path: Path) -> None:
    """Spots of scanpy, drawn on the picture, lie on their own tiles; LazySlide's spec gives the tile's side."""
    anndata = pytest.importorskip("anndata")
    store = write_store(tmp_path)
    table = anndata.read_h5ad(exported(store, tmp_path / "out", "anndata"))
    shown, spec = table.uns["spatial"]["S.1"], table.uns["tile_spec"]
    picture, scale = shown["images"]["hires"], shown["scalefactors"]["tissue_hires_scalef"]
    assert (picture.dtype, picture.shape) == (np.uint8, (round(1500 * scale), 2000, 3))
    assert scale == 2000 / 7000
    side = shown["scalefactors"]["spot_diameter_fullres"]
    assert side == pytest.approx(16 * 0.5 / 0.2325)
    assert spec["width"] * spec["base_downsample"] == spec["height"] * spec["ops_downsample"] == pytest.approx(side)
    assert (spec["stride_width"], spec["mpp"], spec["ops_level"]) == (12, 0.5, 0)
    for (x, y), i in zip(table.obsm["spatial"], KEPT, strict=True):
        left, top, right, bottom = (round((v + d * side / 2) * scale) for d in (-1, 1) for v in (x, y))
        tile = TileSet.open_(store.path).read_tiles(np.array([KEPT.index(i)]))[0].astype(float)
        rows, columns = bottom - top, right - left
        fine = tile.repeat(rows, axis=0).repeat(columns, axis=1)  # so that each pixel of the picture is whole ones
        mean = fine.reshape(rows, 16, columns, 16, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(picture[top:bottom, left:right], mean, atol=0.6)
    attributes = table.uns["spatialdata_attrs"]
    assert set(table.obs[attributes["region_key"]]) == {attributes["region"]}
    assert table.obs[attributes["instance_key"]].is_unique


def test_what_a_format_cannot_hold_is_a_sentence_and_the_other_stores_are_done(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    write_store(tmp_path / "tiles", "photos", kind="natural")
    write_store(tmp_path / "tiles")
    outcome = run(ExportConfig(tiles=[tmp_path / "tiles"], format="trident", out=tmp_path / "out"))
    assert outcome.exit_code == 1
    assert "photos.zarr' (natural) has no places on a slide" in outcome.failures[0]
    assert [path.name for path in (tmp_path / "out").glob("*/features_e/*.h5")] == ["S.1.h5"]
    bare = write_store(tmp_path / "bare", embeddings=False)
    outcome = run(ExportConfig(tiles=[bare.path], format="anndata", out=tmp_path / "ann"))
    assert "needs embeddings" in outcome.failures[0]
    with pytest.raises(ConfigError, match="unknown export format 'parket'; did you mean 'parquet'"):
        load_config(ExportConfig, flags={"tiles": [bare.path], "format": "parket", "out": tmp_path / "x"})


def test_a_package_that_is_not_there_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'histogen\[exports\]'"):
        needed("pyarrow")


def test_an_abbreviated_stream_becomes_a_file_that_pillow_reads() -> None:
    import imagecodecs

    tile = drawn_tiles(1, 32)[0]
    for space in ("RGB", "YCBCR"):
        whole = imagecodecs.jpeg8_encode(tile, level=95, outcolorspace=space, subsampling="444")
        tables, abbreviated = split_tables(bytes(whole))
        settings = JpegSettings(None, None, tables=tables, colorspace_jpeg=space, colorspace_data="RGB")
        pixels = np.asarray(Image.open(io.BytesIO(complete_jpeg(abbreviated, settings))))
        assert np.abs(pixels.astype(int) - tile).mean() < 3
    assert complete_jpeg(b"x", JpegSettings()) == b"x"


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """Cut a JPEG into its tables and a stream without tables and without markers of the colour space."""
    position, tables, rest = 2, b"", b""
    while jpeg[position + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        segment, marker = jpeg[position : position + length], jpeg[position + 1]
        if marker in (0xDB, 0xC4):
            tables += segment
        elif marker not in (0xE0, 0xEE):
            rest += segment
        position += length
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + jpeg[position:]


def test_an_encoder_without_embeddings_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    store = write_store(tmp_path, embeddings=True)
    with pytest.raises(
        StoreError, match=r"has no complete embeddings by 'other' \(all stores have: (.+)\); make them: "
    ):
        run(ExportConfig(tiles=[store.path], format="trident", encoder="other", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
