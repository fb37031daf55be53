"""Disks that fail at any call: a reader sees old or new, never half, and the same command completes to the same bytes.

Calls of a command that change files are met by faults, spread over its run; the kinds take turns.
``HISTOGEN_FAULTS=all`` meets each such call with each kind, which takes hours.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from histogen.files import TEMPORARY
from histogen.geometry import Extent
from histogen.lease import LEASE_NAME
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.slides.drawn import draw_slide

from ..conftest import TINY_AUTOENCODER, TINY_ELDM

KINDS = ("ENOSPC", "EIO", "EROFS", "short", "crash", "power")
HERE = Path(__file__).parent
ROOT = HERE.parents[2]
REPORT = ("report.html", "report.json")
"""They say how fast it went."""
APPENDED = (".jsonl",)
"""Journals: a torn last line is dropped by whoever reads or goes on."""


@pytest.fixture(scope="session")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled layer between a process and its disk."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("not run: the faulty disk is a C library for Linux, and there is no C compiler")
    library = tmp_path_factory.mktemp("disk") / "faulty_disk.so"
    source = str(HERE / "faulty_disk.c")
    subprocess.run(  # noqa: S603
        [compiler, "-O1", "-w", "-shared", "-fPIC", "-o", str(library), source, "-ldl", "-lpthread"], check=True
    )
    return library


@dataclass
class Machine:
    """A warm process, the folder on the faulty disk, and what lies beside it on a sound one."""

    process: subprocess.Popen[str]
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def run(self, command: list[str], *, kind: str = "none", at: int = 0) -> dict[str, Any]:
        aside = self.folder / "aside"
        job = {"folder": self.folder, "disk": self.disk, "aside": aside, "command": command, "kind": kind, "at": at}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job, default=str) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def renew(self, before: Path | None) -> None:
        """Put on the disk what the command found there."""
        for folder in (self.disk, self.folder / "aside"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        if before is not None:
            shutil.copytree(before, self.disk, dirs_exist_ok=True)


Start = Callable[..., Machine]


@pytest.fixture
def start(faulty_disk: Path, tmp_path: Path) -> Iterator[Start]:
    machines: list[Machine] = []

    def begin(*modules: str) -> Machine:
        environment = {**os.environ, "LD_PRELOAD": str(faulty_disk), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-W", "ignore", str(HERE / "driver.py"), *modules], text=True, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        machines.append(Machine(process, tmp_path))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.process.kill()
        machine.process.communicate()


def contents(folder: Path, told_anew: tuple[str, ...] = ()) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in told_anew
    }


def walk(
    machine: Machine, command: list[str], *, before: Path | None = None, points: int = 24,
    told_anew: tuple[str, ...] = (), stores: str = "",
) -> None:  # fmt: skip
    """Meet ``points`` calls of ``command`` with faults, one a run, and go on after each.

    ``told_anew`` are files that say when or how fast; ``stores`` is a pattern of what ``inspect --check`` reads.
    """
    machine.renew(before)
    sound = machine.run(command)
    assert sound["code"] == 0, sound["errors"]
    expected = contents(machine.disk, told_anew)
    whole = {
        *expected.values(),
        *contents(machine.folder / "aside").values(),
        *(contents(before) if before else {}).values(),
    }
    calls = sound["calls"]
    faults = [(1 + i * (calls - 1) // (points - 1), KINDS[i % len(KINDS)]) for i in range(points)]
    if os.environ.get("HISTOGEN_FAULTS") == "all":
        faults = list(itertools.product(range(1, calls + 1), KINDS))
    for at, kind in faults:
        machine.renew(before)
        ended = machine.run(command, kind=kind, at=at)
        where = f"{kind} at call {at} of {calls}: {ended}"
        check_end(ended, kind, where)
        found = contents(machine.disk, told_anew)
        if kind not in ("crash", "power", "EROFS", "EIO"):
            assert not [name for name in found if TEMPORARY in name or name.endswith(LEASE_NAME)], where
        for name, data in found.items():
            if data not in whole and TEMPORARY not in name and not name.endswith((LEASE_NAME, *APPENDED)):
                assert name.endswith(".json"), f"{name} is half: {where}"
                json.loads(data)  # a record of what failed
        for store in machine.disk.glob(stores) if stores else ():
            if (store / "zarr.json").exists():
                checked = machine.run(["inspect", str(store), "--check"])
                assert checked["code"] in (0, 1), (where, checked)
                assert "differs" not in checked["errors"], (where, checked)
        again = machine.run([*command, "--resume"])
        if again["code"] == 2 and "is not an output of histogen" in again["errors"]:  # it had not come to begin
            again = machine.run(command)
        assert again["code"] == 0, (where, again["errors"])
        assert contents(machine.disk, told_anew) == expected, where


def check_end(ended: dict[str, Any], kind: str, where: str) -> None:
    """A fault that is not the end of the process is one sentence with what to do, or did not matter."""
    if kind in ("crash", "power"):
        assert ended["code"] == 137, where
        return
    said = [line for line in ended["errors"].splitlines() if line.startswith(("error: ", "failed: "))]
    assert ended["code"] in (0, 1, 2), where
    assert "Traceback" not in ended["errors"], where
    assert bool(said) == (ended["code"] != 0), where
    assert all("; " in line and "disk" in line for line in said), where


def test_import_images(start: Start, tmp_path: Path) -> None:
    for number in range(8):
        file = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 30, 80, 120)).save(file)
    machine = start("cli.import_images", "histogen.store.zarr_codec", "histogen.pipelines.import_images")
    walk(machine, ["import-images", "images", "--out", "disk/out.zarr"], points=42, stores="out.zarr")


def test_tile(start: Start, tmp_path: Path) -> None:
    for seed in range(2):
        draw_slide(tmp_path / "slides" / f"s{seed}.svs", seed=seed, extent=Extent(700, 500), region_um=120)
    machine = start("cli.tile", "histogen.store.zarr_codec", "histogen.pipelines.tile.command", "openslide", "skimage")
    walk(
        machine,
        ["tile", "slides", "--out", "disk/tiles", "--set", "tile_px=64"],
        told_anew=REPORT,
        stores="tiles/*.zarr",
    )


@pytest.fixture(scope="module")
def world(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/ (two stores), autoencoder/ and eldm/."""
    folder = tmp_path_factory.mktemp("world")
    make_sources(folder / "bare" / "sources")
    shutil.copytree(folder / "bare", folder / "disk")
    common = {"tiles": [folder / "disk" / "sources"], "device": "cpu"}
    trained = {**common, "out": folder / "autoencoder", **TINY_AUTOENCODER}
    run_autoencoder(TrainAutoencoderConfig.model_validate(trained))
    trained = {**common, "out": folder / "eldm", "autoencoder": str(folder / "autoencoder"), **TINY_ELDM}
    run_eldm(TrainEldmConfig.model_validate({**trained, "optim": {"steps": 4, "batch": 8}}))
    return folder


def test_embed(start: Start, world: Path) -> None:
    machine = start("cli.embed", "histogen.store.zarr_codec", "histogen.pipelines.embed.command", "torch")
    command = ["embed", "disk/sources", "--encoder", "colour", "--device", "cpu"]
    # where a disk lets nothing be removed, a store that is complete keeps the lease of a process that is no more
    walk(machine, command, before=world / "bare", told_anew=(LEASE_NAME,), stores="sources/*.zarr")


def test_synthesize(start: Start, world: Path) -> None:
    machine = start("cli.synthesize", "histogen.pipelines.synthesize.command")
    command = ["synthesize", "disk/sources", "--eldm", str(world / "eldm"), "--out", "disk/made", "--device", "cpu"]
    settings = ["--set", "sampler.steps=1", "--set", "micro_batch=8"]
    walk(machine, [*command, *settings], before=world / "disk", points=18, told_anew=REPORT, stores="made/*.zarr")


TINY_PRETRAIN = """
model:
  name: vit_tiny_patch16_224
  arguments: {patch_size: 8, embed_dim: 32, depth: 1, num_heads: 1}
  prototypes: 16
  head_hidden: 16
  head_bottleneck: 8
crops: {global_px: 16, local_px: 8, num_local: 1}
optim: {num_steps: 3, batch: 4, warmup_epochs: 0.5}
log_every: 1
checkpoint_every: 1
"""


def test_checkpoints_of_pretrain(start: Start, world: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_PRETRAIN)
    machine = start("cli.pretrain", "histogen.pipelines.pretrain.command", "torchvision", "timm")
    command = [
        "pretrain",
        str(world / "disk" / "sources"),
        "--config",
        "tiny.yaml",
        "--out",
        "disk/run",
        "--device",
        "cpu",
    ]
    walk(machine, command, points=18, told_anew=(*REPORT, "run.json", "README.md", "metrics.jsonl"))
