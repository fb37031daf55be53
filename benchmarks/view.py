"""The server of ``histogen view``: first page, deep-zoom squares, sheets of thumbnails, memory; beside OpenSlide's.

    python benchmarks/view.py SLIDE [--stores 500] [--tiles 2000] [--folder DIR]

SLIDE is one that OpenSlide reads too: its DeepZoomGenerator is the peer, asked for the same squares in the same run.
The stores are written by the script (16 px tiles, embeddings [64]), so that a million fit; the sheet is of 256 px
tiles. The server is a process of its own; sheets are asked for over six connections, as a browser does. The first page
is timed in a browser where there is one (Chromium).
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from common import machine, textured_tiles, write_store

from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.store.tile_store import TileStore

CONNECTIONS = 6
SQUARES = 200
SHEET = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--stores", type=int, default=500)
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the stores (default: temporary)")
    arguments = parser.parse_args()
    print(machine("tornado", "openslide-python", "numpy"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        many, large = Path(folder) / "many", Path(folder) / "large"
        write_store(large / "large.zarr", 2000, 256)
        write_many(many, arguments.stores, arguments.tiles)
        measure_squares(arguments.slide)
        measure_sheet(large)
        measure_first_page(many)
        measure_map(many)


def write_many(folder: Path, num_stores: int, num_tiles: int) -> None:
    """Write stores as of many slides, with places, a column and embeddings."""
    payloads = [encode_jpeg(tile, JpegSettings(90, "420")) for tile in textured_tiles(64, 16)]
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(num_tiles)))
    places = np.stack(np.divmod(np.arange(num_tiles), side)).astype(np.float64) * 32
    for number in range(num_stores):
        about = {"slide_id": f"slide-{number:04d}", "extent": [side * 32, side * 32], "mpp": [0.25, 0.25]}
        store = TileStore.create(
            folder / f"slide-{number:04d}.zarr", kind="slide", store_id=f"slide-{number:04d}", tile_px=16, mpp=0.5,
            num_tiles=num_tiles, provenance={"slide": about},
            columns={"x_l0": places[1], "y_l0": places[0], "focus": rng.random(num_tiles, np.float32)},
        )  # fmt: skip
        store.create_rows("embeddings/e", (num_tiles, 64), "float32")
        for shard in store.missing_shards():
            rows = store.shard_range(shard)
            store.commit("tiles", shard, store.write_tiles(shard, [payloads[i % 64] for i in rows]))
            vectors = rng.standard_normal((len(rows), 64), np.float32) + rng.standard_normal(64, np.float32)
            store.write_rows("embeddings/e", shard, vectors)
            store.commit("embeddings/e", shard, {"count": len(rows)})


def said(name: str, value: str) -> None:
    """Print a figure."""
    print(f"{name:<58s} {value}", flush=True)


class Serving:
    """``histogen view`` of ``paths`` in a process of its own, and the seconds until it could be asked."""

    def __init__(self, *paths: Path) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "histogen", "view", *map(str, paths), "--no-browser"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.address = self._process.stdout.readline().split()[1]
        self.seconds = time.perf_counter() - start
        self._host, self._path = urlsplit(self.address)[1:3]

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def memory(self) -> int:
        """Resident bytes of the server."""
        return psutil.Process(self._process.pid).memory_info().rss

    def json(self, name: str) -> dict[str, Any]:
        """Return an answer."""
        with urllib.request.urlopen(self.address + name) as answer:
            return json.loads(answer.read())

    def ask(self, names: Sequence[str], connections: int = 1) -> list[float]:
        """Return the milliseconds of each request."""
        kept = threading.local()

        def one(name: str) -> float:
            if not hasattr(kept, "connection"):
                kept.connection = http.client.HTTPConnection(self._host)
            start = time.perf_counter()
            kept.connection.request("GET", f"{self._path}{name}")
            answer = kept.connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            return 1000 * (time.perf_counter() - start)

        with ThreadPoolExecutor(connections) as pool:
            return list(pool.map(one, names))


def measure_squares(slide: Path) -> None:
    """Squares at random places of the three finest zooms, none asked for twice; OpenSlide's on the same places."""
    from openslide import OpenSlide
    from openslide.deepzoom import DeepZoomGenerator

    with Serving(slide) as serving:
        slide_id = serving.json("data/index")["slides"][0]["id"]
        about = serving.json(f"data/slide/{slide_id}")
        rng, chosen = np.random.default_rng(0), set()
        counts = [(about["width"] // (256 << zoom), about["height"] // (256 << zoom)) for zoom in range(3)]
        while len(chosen) < min(SQUARES, sum(across * down for across, down in counts) // 2):
            zoom = int(rng.integers(3))
            if min(counts[zoom]) > 0:
                chosen.add((zoom, int(rng.integers(counts[zoom][0])), int(rng.integers(counts[zoom][1]))))
        asked = sorted(chosen, key=lambda _: rng.random())
        serving.ask([f"image/slide/{slide_id}/{about['zooms'] - 1}/0_0.jpg"])  # the slide is open
        ours = serving.ask([f"image/slide/{slide_id}/{zoom}/{column}_{line}.jpg" for zoom, column, line in asked])
        sizes = []
        for k in range(1, 16):  # as many again, beside them: panning
            moved = [(zoom, (column + k) % counts[zoom][0], line) for zoom, column, line in asked]
            serving.ask([f"image/slide/{slide_id}/{zoom}/{column}_{line}.jpg" for zoom, column, line in moved])
            sizes.append(serving.memory)
    deep = DeepZoomGenerator(OpenSlide(str(slide)), tile_size=256, overlap=0)
    theirs = []
    for zoom, column, line in asked:
        start = time.perf_counter()
        deep.get_tile(deep.level_count - 1 - zoom, (column, line)).save(io.BytesIO(), "jpeg", quality=85)
        theirs.append(1000 * (time.perf_counter() - start))
    said(
        f"{len(asked)} squares, over HTTP",
        f"median {statistics.median(ours):.1f} ms, 95 % {np.percentile(ours, 95):.1f} ms",
    )
    said(
        "OpenSlide's DeepZoomGenerator, in process",
        f"median {statistics.median(theirs):.1f} ms, 95 % {np.percentile(theirs, 95):.1f} ms",
    )
    said("memory after 1,000, 2,000 and 3,000 more", ", ".join(f"{sizes[k] / 1e6:.0f} MB" for k in (4, 9, 14)))


def measure_sheet(folder: Path) -> None:
    """A sheet of thumbnails, each sheet of other tiles."""
    with Serving(folder) as serving:
        times = []
        for sheet in range(5):
            names = [f"image/thumb/{sheet * SHEET + k}.jpg" for k in range(SHEET)]
            start = time.perf_counter()
            serving.ask(names, CONNECTIONS)
            times.append(1000 * (time.perf_counter() - start))
    said(f"sheet of {SHEET} thumbnails, {CONNECTIONS} connections", f"median {statistics.median(times):.0f} ms")


def measure_first_page(folder: Path) -> None:
    """From opening the address to a drawn slide, in a browser; and what the server takes to begin."""
    with Serving(folder) as serving:
        stores = serving.json("data/index")["stores"]
        total = sum(store["tiles"] for store in stores)
        said(f"the command with {len(stores)} slides, {total:,} tiles, to its address", f"{serving.seconds:.2f} s")
        said("the index, first and again", " and ".join(f"{ms:.0f} ms" for ms in serving.ask(["data/index"] * 2)))
        browser = shutil.which("chromium")
        if browser is None:
            said("first page", "not measured: no browser")
            return
        from playwright.sync_api import sync_playwright

        with sync_playwright() as started:
            opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            times = []
            for _ in range(5):
                page = opened.new_page()
                start = time.perf_counter()
                page.goto(serving.address)
                page.wait_for_selector("section.card")
                times.append(time.perf_counter() - start)
                page.close()
            opened.close()
        said(
            "first page in Chromium, a slide shown", f"first {times[0]:.2f} s, median {statistics.median(times):.2f} s"
        )


def measure_map(folder: Path) -> None:
    """The main directions of a million embeddings, and one tile's neighbours among them."""
    with Serving(folder) as serving:
        said(
            "map by PCA, first and again",
            " and ".join(f"{ms / 1000:.1f} s" for ms in serving.ask(["data/map/e/pca"] * 2)),
        )
        said("neighbours of a tile", f"{serving.ask(['data/neighbours/1', 'data/neighbours/2'])[1] / 1000:.1f} s")


if __name__ == "__main__":
    main()
