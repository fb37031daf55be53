"""A short run of ``benchmarks/fuzz.py`` in this process: what is spoilt is read, or refused with a sentence."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from histogen.errors import StoreError

CASES = {
    "tiff": 70, "dicom": 25, "geojson": 50, "xml": 50, "annotation-store": 30, "manifest": 25, "config": 40, "set": 40,
    "store": 30, "checkpoint": 20, "hdf5": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    """The benchmark, imported as its own folder imports it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    try:
        import fuzz as module

        yield module
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def watch(fuzz: ModuleType) -> Any:
    return fuzz.Watch()  # one for all: what listens to the interpreter stays to its end


@pytest.fixture
def bench(fuzz: ModuleType, watch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bench in a folder, which sees what is written outside of its folder for output."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = fuzz.Bench(tmp_path)
    watch.allowed, watch.outside = (tmp_path / "out", tmp_path / "temporary"), []
    with warnings.catch_warnings(action="ignore"):
        yield made


def judged(bench: Any, watch: Any, kind: str, count: int) -> list[Any]:
    bench.prepare(kind)
    results = []
    for seed in range(count):
        path = bench.spoil(kind, seed)
        watch.on = True
        results.append(bench.read(kind, seed, path))
        watch.on = False
    return results


def test_every_kind_is_run(fuzz: ModuleType) -> None:
    assert list(CASES) == list(fuzz.KINDS)
    assert sum(kind.share for kind in fuzz.KINDS.values()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", CASES)
def test_what_is_spoilt_is_read_or_refused_with_a_sentence(bench: Any, watch: Any, kind: str) -> None:
    results = judged(bench, watch, kind, CASES[kind])
    assert [(r.seed, r.said, r.place) for r in results if r.outcome not in ("accepted", "refused")] == []
    assert watch.outside == []
    assert max(result.seconds for result in results) < 10
    counts = Counter(result.outcome for result in results)
    assert min(counts["accepted"], counts["refused"]) > 0  # neither spoils nothing nor everything


def test_a_case_is_the_same_every_time(bench: Any) -> None:
    bench.prepare("geojson")
    first = [bench.spoil("geojson", seed).read_bytes() for seed in range(20)]
    assert [bench.spoil("geojson", seed).read_bytes() for seed in range(20)] == first
    assert len(set(first)) > 15


def write(path: Path) -> None:
    path.write_text("x")


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda path, out: None, "accepted"),
        (lambda path, out: fail(StoreError("store 'a' is no store; check the path")), "refused"),
        (lambda path, out: fail(StoreError("it cannot be read (KeyError: 'x')")), "tracebacks"),
        (lambda path, out: fail(StoreError("one line\nand another")), "tracebacks"),
        (lambda path, out: fail(ValueError("no number")), "tracebacks"),
        (lambda path, out: fail(MemoryError()), "over memory"),
        (lambda path, out: fail(StoreError("Unable to allocate 3 GiB")), "over memory"),
        (lambda path, out: write(out.parent / "file"), "accepted"),
        (lambda path, out: write(out.parents[1] / "file"), "outside"),
        (lambda path, out: (out.parents[1] / "folder").mkdir(), "outside"),
        (lambda path, out: path.unlink(), "outside"),
        (lambda path, out: path.rename(out), "outside"),
    ],
)
def test_what_a_reader_does_wrong_is_seen(
    fuzz: ModuleType, bench: Any, watch: Any, monkeypatch: pytest.MonkeyPatch, read: Callable[..., None], outcome: str
) -> None:
    def build(folder: Path) -> list[Path]:
        write(folder / "a")
        return [folder / "a"]

    def spoil(path: Path, draw: Random) -> None:
        path.write_text("spoilt")

    def read_spoilt(path: Path, out: Path) -> None:
        if path.read_text() == "spoilt":
            read(path, out)

    kind = type(fuzz.KINDS["tiff"])(build, spoil, read_spoilt, 0.1)
    monkeypatch.setattr(fuzz, "KINDS", {**fuzz.KINDS, "own": kind})
    (result,) = judged(bench, watch, "own", 1)
    assert ("outside" if watch.outside else result.outcome) == outcome
