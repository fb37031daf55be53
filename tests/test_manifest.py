"""Manifests: what is read, and one sentence with file and line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from histogen.errors import ManifestError
from histogen.geometry import Mpp
from histogen.manifest import manifest_hash, read_slide_manifest, read_store_manifest


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "m.csv"
    file.write_text(text)
    return file


def test_slides_with_all_that_may_be_said_of_them(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "path,slide_id,mpp_x,mpp_y,annotations,label,split,group,scanner\n"
        "a/one.svs,S1,0.25,0.26,one.geojson,tumour,train,P1,X\n"
        "/abs/two.svs,,,,,,,,\n",
    )
    one, two = read_slide_manifest(file)
    assert (one.path, one.slide_id, one.mpp) == (tmp_path / "a/one.svs", "S1", Mpp(0.25, 0.26))
    assert one.annotations == tmp_path / "one.geojson"
    assert (one.label, one.split, one.group, one.extra) == ("tumour", "train", "P1", {"scanner": "X"})
    assert (two.path, two.slide_id, two.mpp, two.annotations) == (Path("/abs/two.svs"), "two", None, None)


def test_one_mpp_is_both(tmp_path: Path) -> None:
    assert read_slide_manifest(write(tmp_path, "path,mpp\nx.svs,0.5\n"))[0].mpp == Mpp(0.5, 0.5)


def test_stores_are_relative_to_the_manifest(tmp_path: Path) -> None:
    assert read_store_manifest(write(tmp_path, "path\nt/a.zarr\n")) == [tmp_path / "t/a.zarr"]


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    first = manifest_hash(write(tmp_path, "path\na\n"))
    assert first == manifest_hash(write(tmp_path, "path\na\n"))
    assert first != manifest_hash(write(tmp_path, "path\nb\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide\nx\n", "has no column 'path'"),
        ("path\n", "lists nothing"),
        ("path,mpp\nx\n", "m.csv:2: the row has not as many values"),
        ("path\nx,y\n", "m.csv:2: the row has not as many values"),
        ("path,mpp\n,0.5\n", "m.csv:2: 'path' is empty"),
        ("path,mpp\nx,fine\n", "m.csv:2: mpp 'fine' x 'fine' is not two numbers"),
        ("path,mpp\nx,0\n", "m.csv:2: mpp 0.0 x 0.0 is not above zero"),
        ("path,mpp_x\nx,1\n", "m.csv:2: mpp '1' x None is not two numbers"),
        ("path\nx/a.svs\ny/a.svs\n", "m.csv:3: slide 'a' is on line 2 too"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_slide_manifest(write(tmp_path, text))


def test_a_file_that_is_no_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        read_slide_manifest(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(ManifestError, match="not a CSV file"):
        read_slide_manifest(tmp_path / "m.csv")
