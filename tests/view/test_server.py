"""The server: nothing without the token, nothing by a path, names escaped, many clients, one that never reads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.store.jpeg import decode_jpeg, encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore
from histogen.view.answers import Answers
from histogen.view.server import Server, static_files

from .conftest import Client, serving, unpack

OUTSIDE = "a secret outside of what was given"


def test_the_page_and_its_files_come_with_the_token_alone(client: Client) -> None:
    status, body, headers = client.ask(f"/{client.server.token}/")
    assert (status, body[:15]) == (200, b"<!DOCTYPE html>")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for name in static_files():
        assert client.get(name)[0] == 200
        for token in ("", "x", client.server.token[:-1], client.server.token + "x", "%00", "é".encode().hex()):
            assert client.ask(f"/{token}/{name}")[0] == 403
    for path in ("/", "", "/data/index", "//data/index", "/image/tile/0.jpg", f"/x/{client.server.token}/data/index"):
        assert client.ask(path or "/")[0] == 403


def test_it_listens_on_loopback_only(client: Client) -> None:
    sockets = [s.getsockname()[0] for s in client.server._http._sockets.values()]
    assert sockets == ["127.0.0.1"]


@pytest.mark.parametrize("room", ["data", "image", "data/slide", "image/slide", "image/tile", "image/preview/0", "."])
def test_no_name_is_ever_a_path(client: Client, world: Path, room: str) -> None:
    secret = world.parent / "secret.jpg"
    secret.write_text(OUTSIDE)
    ups = "../" * 12
    absolute = str(secret)
    names = [
        f"{ups}{absolute[1:]}", absolute, f"/{absolute}", f"{ups}{absolute[1:]}".replace("/", "%2f"),
        absolute.replace("/", "%2F"), f"{ups}{absolute[1:]}".replace(".", "%2e"),
        f"{ups}{absolute[1:]}".replace("/", "%5c"), "..%252f" * 8 + absolute[1:], f"drawn-00/{ups}{absolute[1:]}",
        f"{absolute}%00.jpg", "..", "../", "....//....//secret.jpg", "view.css/../../answers.py", "server.py",
    ]  # fmt: skip
    for name in names:
        status, body = client.get(f"{room}/{name}")
        assert status in (403, 404), name
        assert OUTSIDE.encode() not in body


def test_a_preview_that_links_to_elsewhere_is_not_shown(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other.png"
    (run / "previews").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    other.write_bytes(b"\x89PNG\r\n\x1a\n" + OUTSIDE.encode())
    (run / "previews" / "a.png").symlink_to(other)
    (run / "previews" / "b.png").write_text(OUTSIDE)
    own = b"\x89PNG\r\n\x1a\n"
    (run / "previews" / "c.png").write_bytes(own)
    with serving(open_rooms(ViewConfig(paths=[run]))) as client:
        assert client.json("data/run/0")["previews"] == ["b", "c"]
        status, body = client.get("image/preview/0/0.png")
        assert (status, OUTSIDE.encode() in body) == (404, False)
        assert client.get("image/preview/0/1.png") == (200, own)
        assert client.get("image/preview/0/2.png")[0] == 404


def test_a_sentence_answers_what_is_not_there(client: Client) -> None:
    for name in (
        "data/tile/999999",
        "data/places/77",
        "data/slide/none",
        "data/nothing",
        "image/slide/drawn-00/0/9_9.jpg",
    ):
        status, body = client.get(name)
        assert (status, list(json.loads(body))) == (404, ["error"]), name
    status, body, _ = client.ask(f"/{client.server.token}/data/select", method="POST")
    assert (status, b"not JSON" in body) == (400, True)


def test_fifty_clients_are_answered_alike(client: Client, answers: Answers) -> None:
    names = ["data/index", "image/tile/3.jpg", "image/thumb/5.jpg", "image/slide/drawn-00/1/0_0.jpg", "data/tile/7"]
    alone = {name: client.get(name) for name in names}
    with ThreadPoolExecutor(50) as pool:
        together = list(pool.map(lambda k: (names[k % 5], client.get(names[k % 5])), range(250)))
    assert all(alone[name] == answer for name, answer in together)
    assert alone["image/tile/3.jpg"] == (200, answers.tiles.payload(3))


def test_a_client_that_never_reads_holds_nobody_up(client: Client) -> None:
    request = f"GET /{client.server.token}/data/index HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    silent = [socket.create_connection(("127.0.0.1", client.server.port)) for _ in range(20)]
    for one in silent:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        one.sendall(request * 20)
    start = time.monotonic()
    assert client.get("image/tile/0.jpg")[0] == 200
    assert time.monotonic() - start < 10
    for one in silent:
        one.close()


def test_names_stay_names(tmp_path: Path) -> None:
    """A label may be anything; the page makes text nodes of it, and JSON says it unchanged."""
    label = "<img src=x onerror=alert(1)>\"'&"
    store = TileStore.create(
        tmp_path / "s.zarr", kind="natural", store_id="s", tile_px=8, mpp=None, num_tiles=2, provenance={},
        columns={"label": Column.categorical([label, None])},
    )  # fmt: skip
    tile = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    store.commit("tiles", 0, store.write_tiles(0, [tile, tile]))
    with serving(open_rooms(ViewConfig(paths=[tmp_path]))) as client:
        assert client.json("data/tile/0")["values"]["label"] == label
        assert client.json("data/column/0/label")["names"] == [label]
        assert client.ask(f"/{client.server.token}/data/tile/0")[2]["Content-Type"] == "application/json"
    assert not any("innerHTML" in text or "insertAdjacentHTML" in text for text in static_files().values())


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command_prints_its_address_and_ends_when_told(world: Path, sign: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "histogen", "view", str(world), "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        address = child.stdout.readline().split()[1]
        with urllib.request.urlopen(f"{address}data/index") as answer:  # noqa: S310
            assert len(json.loads(answer.read())["slides"]) == 2
        child.send_signal(sign)
        _, errors = child.communicate(timeout=30)
        assert (child.returncode, "Traceback" in errors) == (code, False), errors


def test_a_port_that_is_taken_is_said(client: Client, answers: Answers) -> None:
    with pytest.raises(ConfigError, match="is not free"):
        Server(answers, port=client.server.port)


def test_a_store_with_a_torn_shard_is_shown_without_it(tmp_path: Path) -> None:
    store = TileStore.create(
        tmp_path / "s.zarr", kind="natural", store_id="s", tile_px=8, mpp=None, num_tiles=1030, provenance={},
        columns={"focus": np.arange(1030, dtype=np.float32)},
    )  # fmt: skip
    tile = encode_jpeg(np.full((8, 8, 3), 90, np.uint8))
    for shard in range(2):
        store.commit("tiles", shard, store.write_tiles(shard, [tile] * len(store.shard_range(shard))))
    with serving(open_rooms(ViewConfig(paths=[tmp_path]))) as client:
        file = tmp_path / "s.zarr" / "tiles" / "c" / "1" / "0" / "0" / "0"
        whole = file.read_bytes()
        file.unlink()
        file.write_bytes(whole[:-7])
        present = unpack(client.json("data/places/0")["present"])
        assert (present[:1024].sum(), present[1024:].sum()) == (1024, 0)
        assert client.get("image/tile/1027.jpg")[0] == 404
        assert client.json("data/tile/1027")["present"] is False
        assert any("damaged" in sentence for sentence in client.json("data/index")["problems"])
        file.unlink()
        file.write_bytes(whole)  # it was mended meanwhile
        status, body = client.get("image/tile/1027.jpg")
        assert (status, decode_jpeg(body).shape) == (200, (8, 8, 3))
