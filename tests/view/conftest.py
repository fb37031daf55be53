"""A small real run to look at: two drawn slides, their tiles, two encoders, an E-LDM and what it made; and a server."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.pipelines.benchmark.command import BenchmarkConfig
from histogen.pipelines.benchmark.command import run as run_benchmark
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.run.draw import DrawConfig
from histogen.pipelines.run.draw import run as run_draw
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as run_synthesize
from histogen.pipelines.tile.command import TileConfig
from histogen.pipelines.tile.command import run as run_tile
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.view.answers import Answers
from histogen.view.server import Server

from ..pipelines.conftest import TINY_AUTOENCODER, TINY_ELDM

ENCODERS = ("colour-histogram", "random-resnet10t")


def unpack(packed: dict[str, str]) -> np.ndarray:
    """Return the array that ``histogen.view.packing.pack`` packed."""
    dtype = {"Float32Array": "<f4", "Int32Array": "<i4", "Uint8Array": "u1"}[packed["type"]]
    return np.frombuffer(base64.b64decode(packed["base64"]), dtype)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/ tiles/ autoencoder/ eldm/ generative/ interpolated/ benchmark/, as the commands leave them."""
    folder = tmp_path_factory.mktemp("view")
    run_draw(DrawConfig(out=folder / "slides", num_slides=2, width_px=1000, height_px=640))
    tiles = [folder / "tiles"]
    run_tile(TileConfig(slides=[folder / "slides"], annotations=folder / "slides", out=tiles[0], tile_px=32, mpp=1.0))
    common: dict[str, Any] = {"tiles": tiles, "device": "cpu"}
    autoencoder = {**TINY_AUTOENCODER, **common, "out": folder / "autoencoder"}
    run_autoencoder(TrainAutoencoderConfig.model_validate(autoencoder))
    eldm = {**TINY_ELDM, **common, "out": folder / "eldm", "autoencoder": str(folder / "autoencoder")}
    run_eldm(TrainEldmConfig.model_validate({**eldm, "optim": {"steps": 4, "batch": 8}}))
    for kind in ("generative", "interpolated"):
        made = {**common, "eldm": folder / "eldm", "kind": kind, "out": folder / kind, "micro_batch": 8}
        run_synthesize(SynthesizeConfig.model_validate(made))
    ensure_embeddings([*tiles, folder / "generative"], "colour")
    ensure_embeddings(tiles, "random:resnet10t")
    judged = {"tiles": tiles, "encoders": ["colour"], "out": folder / "benchmark", "device": "cpu", "split": "tile"}
    run_benchmark(BenchmarkConfig.model_validate({**judged, "judge": {"draws": 100, "tests": ["knn"]}}))
    return folder


@pytest.fixture(scope="session")
def answers(world: Path) -> Answers:
    """The answers about all of it."""
    return open_rooms(ViewConfig(paths=[world]))


@dataclass(frozen=True)
class Client:
    """Asks a server by raw paths, which nothing on the way makes tidy."""

    server: Server

    def ask(self, path: str, *, method: str = "GET", body: Any = None) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of the answer to ``path``, which begins with a slash."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, name: str) -> tuple[int, bytes]:
        """The same for a name under the token."""
        return self.ask(f"/{self.server.token}/{name}")[:2]

    def json(self, name: str) -> Any:
        """Return the answer as JSON values; it must be one."""
        status, body = self.get(name)
        assert status == 200, body
        return json.loads(body)


@contextmanager
def serving(answers: Answers) -> Iterator[Client]:
    """Serve in a thread of this process, which ends with the test even if it fails."""
    started, ended = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["server"], found["loop"] = Server(answers), asyncio.get_running_loop()
        started.set()
        await ended.wait()
        await found["server"].close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(10)
    try:
        yield Client(found["server"])
    finally:
        found["loop"].call_soon_threadsafe(ended.set)
        thread.join(10)


@pytest.fixture(scope="session")
def client(answers: Answers) -> Iterator[Client]:
    """A client of a server of :func:`answers`."""
    with serving(answers) as client:
        yield client
