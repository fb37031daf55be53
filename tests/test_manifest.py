"""Manifests: what is read, and one sentence with file and line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from histogen.errors import ManifestError
from histogen.geometry import Mpp
from histogen.manifest import SlideRecord, manifest_hash, read_slide_manifest, read_store_manifest


def slides_in(manifest: Path) -> list[SlideRecord]:
    return read_slide_manifest(manifest, id_of=lambda path: path.stem)


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
    one, two = slides_in(file)
    assert (one.path, one.slide_id, one.mpp) == (tmp_path / "a/one.svs", "S1", Mpp(0.25, 0.26))
    assert one.annotations == tmp_path / "one.geojson"
    assert (one.label, one.split, one.group) == ("tumour", "train", "P1")
    assert (two.path, two.slide_id, two.mpp, two.annotations) == (Path("/abs/two.svs"), "two", None, None)


def test_one_mpp_is_both(tmp_path: Path) -> None:
    assert slides_in(write(tmp_path, "path,mpp\nx.svs,0.5\n"))[0].mpp == Mpp(0.5, 0.5)


def test_stores_are_relative_to_the_manifest(tmp_path: Path) -> None:
    assert read_store_manifest(write(tmp_path, "path\nt/a.zarr\n")) == [tmp_path / "t/a.zarr"]


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    first = manifest_hash(write(tmp_path, "path\na\n"))
    assert first == manifest_hash(write(tmp_path, "path\na\n"))
    assert first != manifest_hash(write(tmp_path, "path\nb\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide\nx\n", "has no column 'path' (it has slide); add a first row with the names of columns"),
        ("", "has no column 'path' (it has none)"),
        ("path\n", "lists nothing"),
        ("path\n\n\n", "lists nothing"),
        ("path,mpp\nx\n", "m.csv:2: the row has 1 values for 2 columns"),
        ("path\nx,y\n", "m.csv:2: the row has 2 values for 1 columns"),
        ("path,mpp\n,0.5\n", "m.csv:2: 'path' is empty"),
        ("path,mpp\nx,fine\n", "m.csv:2: mpp 'fine' x 'fine' is not two numbers"),
        ('path,mpp\nx,"0,5"\n', "m.csv:2: mpp '0,5' x '0,5' is not two numbers; write them with a point"),
        ("path,mpp\nx,0\n", "m.csv:2: mpp 0.0 x 0.0 is not above zero"),
        ("path,mpp\nx,inf\n", "m.csv:2: mpp inf x inf is not above zero"),
        ("path,mpp_x\nx,1\n", "m.csv:2: mpp '1' x None is not two numbers"),
        ("path,mpp,mpp_x,mpp_y\nx,0.5,0.25,0.25\n", "m.csv:2: both mpp and mpp_x or mpp_y are given"),
        ("path\nx/a.svs\ny/a.svs\n", "m.csv:3: slide 'a' is on line 2 too; delete one, or name them apart"),
        ("path,slide_id,label\na,s,x\nb,t,x\nc,s,y\n", "m.csv:4: slide 's' is on line 2 too"),
        ("path,label,label\nx,a,b\n", "has column 'label' twice; delete or rename one"),
        ("path,slide_id,path\nx,a,y\n", "has column 'path' twice"),
        ("path,note,note \nx,a,y\n", "has column 'note' twice"),
        ("path,Label\nx,a\n", "has a column 'Label', which is not 'label'; rename it"),
        ("Path\nx\n", "has a column 'Path', which is not 'path'"),
        ("path,Slide ID\nx,a\n", "has a column 'Slide ID', which is not 'slide_id'"),
        ("path,mpp-x,mpp_y\nx,1,1\n", "has a column 'mpp-x', which is not 'mpp_x'"),
        (",path\n0,x\n", "has a column without a name, the 1. of 2 (an index that a program wrote?)"),
        ("path,\nx,\n", "has a column without a name, the 2. of 2"),
        ("path;label\nx;a\n", "has semicolons between its columns; save it with commas"),
        ("path\tlabel\nx\ta\n", "has tabs between its columns"),
        ("path,split\nx,train\ny,Train\n", "m.csv:3: split 'Train' is 'train' on line 2; write both in one way"),
        ("path,split\nx,TEST\ny,train\nz,test\n", "m.csv:4: split 'test' is 'TEST' on line 2"),
        ("path,slide_id\nx,../../evil\n", "m.csv:2: slide_id '../../evil' cannot name a folder, for its '/'"),
        (
            "path,slide_id\nx,/tmp/evil\n",
            "use letters, digits and _ . + @ - (first a letter or digit), such as 'tmp_evil'",
        ),
        ("path,slide_id\nx,..\n", "slide_id '..' cannot name a folder, for its '.'"),
        ("path,slide_id\nx,p\\\\q\n", "slide_id 'p\\\\q' cannot name a folder"),
        ("path,slide_id\nx,Prä 1\n", "slide_id 'Prä 1' cannot name a folder, for its 'ä'"),
        ("path,slide_id\nx,.hidden\n", "slide_id '.hidden' cannot name a folder, for its '.'"),
        (
            f"path,slide_id\nx,{'L' * 240}\n",
            "has 240 letters, more than the 160 that leave room for endings; shorten it",
        ),
        ("path\n~nosuchuser/x.svs\n", "m.csv:2: path '~nosuchuser/x.svs' begins with '~nosuchuser', which is nobody's"),
        ("path,annotations\nx,~nosuchuser/a\n", "m.csv:2: annotations '~nosuchuser/a' begins with '~nosuchuser'"),
        ("path\na\0b.tif\n", r"m.csv:2: path 'a\x00b.tif' has a control character"),
        ("path,label\nx,a\0\n", "m.csv:2: label 'a"),
        (
            "path\nx/" + "ä" * 130 + "/a.tif\n",
            "m.csv:2: path has a name that no file can have, 'ääääääääääääääääääää… (130 ",
        ),
        ("path,annotations\nx," + "a" * 300 + "\n", "m.csv:2: annotations has a name that no file can have"),
        ('path\n"a.tif\nb.tif\n', "is not a CSV file (unexpected end of data)"),
        ('path\n"a.tif\nb.tif"\n', r"m.csv:3: path 'a.tif\nb.tif' has a control character ('\n')"),
        ("path\n" + "a" * 200_000 + "\n", "is not a CSV file (field larger than field limit"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as error:
        slides_in(write(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["path,label\nx.zarr,a\n", "path,slide_id\nx.zarr,a\n", "path,split,note\nx.zarr,train,n\n"]
)
def test_what_is_said_of_stores_and_not_read_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ManifestError, match="which is for slides and is not read of tile stores; give it to histogen tile"
    ):
        read_store_manifest(write(tmp_path, text))


def test_blanks_around_values_and_names_of_columns_mean_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, "path , label,split \n a.svs ,\ttumour \xa0,train\nb.svs,  tumour, train \n")
    assert {(one.label, one.split) for one in slides_in(file)} == {("tumour", "train")}


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    file = write(tmp_path, 'path,note,Scanner\na.svs,"two\nlines, and a comma",ä\n')
    assert slides_in(file) == [SlideRecord(tmp_path / "a.svs", "a")]


def test_a_file_that_is_no_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        slides_in(tmp_path / "none.csv")
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(ManifestError, match="not a CSV file"):
        slides_in(tmp_path / "m.csv")
