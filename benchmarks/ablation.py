"""DINO against Gen-DINO at equal steps, with the paper's ablation and two controls, several seeds each.

    python benchmarks/ablation.py TILES --generative DIR --interpolated DIR --out DIR
        [--judge LABELLED[,…] …] [--seeds 3] [--steps N] [--jobs 1] [--rows DINO pairs …]
        [--config configs/pretrain/crc5_96px.yaml] [--set a.b=c]

Rows differ in their synthetic stores and what is written in ``ROWS``; everything else is the same. ``neighbours`` has,
in place of a generative tile, the real tile that is nearest by DINO's embedding of seed 0; ``heavier`` changes views
harder; ``longer`` is DINO for twice the steps (with ``--steps`` only). A run that is done is not done again, so the
script can be stopped and started. The judge is `histogen benchmark`, also on restained tiles: seeds of a row are
averaged, rows compared with DINO by paired intervals, and their p corrected for the number of comparisons (Holm 1979).
"""

from __future__ import annotations

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histogen.config import load_config
from histogen.errors import HistogenError
from histogen.pipelines.benchmark import command as benchmark
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.pretrain import command as pretrain
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


class Row(NamedTuple):
    """The synthetic stores of a row, its settings, and its steps as a multiple of the other rows'."""

    stores: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    length: float = 1.0


ROWS = {
    "untrained": Row((), ("optim.lr=0", "optim.num_steps=60")),
    "DINO": Row(),
    "pairs": Row(("generative",)),
    "alg1": Row(("interpolated",), ("dis.mode=alg1",)),
    "figure": Row(("interpolated",), ("dis.mode=figure",)),
    "pairs+alg1": Row(("generative", "interpolated"), ("dis.mode=alg1",)),
    "pairs+figure": Row(("generative", "interpolated"), ("dis.mode=figure",)),
    "longer": Row(length=2.0),  # about the time of pairs+figure
    "neighbours": Row(("neighbours",)),
    "heavier": Row((), ("augment.jitter=1", "augment.brightness=0.4", "augment.contrast=0.4", "augment.stain=0.5",
                        "augment.grayscale=0.2", "augment.blur=[0.8,0.5,0.5]")),
}  # fmt: skip


def train(given: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    """Train one run, or go on with it."""
    out = given.out / "runs" / f"{row}-{seed}"
    wanted = {"generative" if name == "neighbours" else name: getattr(given, name) for name in ROWS[row].stores}
    flags = {"tiles": given.tiles, "out": out, "seed": seed, "resume": out.exists(), **wanted}
    steps = given.steps and round(ROWS[row].length * given.steps)
    length = [f"optim.num_steps={steps}"] if steps else []
    config = load_config(
        PretrainConfig, file=given.config, overrides=[*length, *given.set, *ROWS[row].settings], flags=flags
    )
    return dict(pretrain.run(config).results)


def neighbour_stores(given: argparse.Namespace) -> Path:
    """Write, per store of tiles, one whose tile i is the real tile nearest to tile i, and return their folder.

    Nearest by the cosine of DINO's embeddings (seed 0), the tile itself left out, among the tiles trained on.
    """
    out = given.out / "neighbours"
    if out.exists():
        return out
    where = load_config(
        PretrainConfig, file=given.config, overrides=given.set, flags={"tiles": given.tiles, "out": out}
    )
    key = ensure_embeddings(given.tiles, str(given.out / "runs" / "DINO-0"))
    everything = TileSet.open_(given.tiles)
    used = everything.where(where.where) if where.where else everything
    values = used.embeddings(key)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    unfinished = out.with_name("neighbours.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    owners, places = used.store_of(np.arange(len(used))), used.tile_index_of(np.arange(len(used)))
    for number, source in enumerate(used.stores):
        mine = np.flatnonzero(owners == number)
        alike = values[mine] @ values.T
        alike[np.arange(len(mine)), mine] = -np.inf
        columns = {
            "source_store": Column.categorical([source.store_id] * len(mine)),
            "source_index": Column(places[mine].astype(np.int64)),
        }
        store = TileStore.create(
            unfinished / f"{source.store_id}.zarr", kind="generative", store_id=f"{source.store_id}-neighbours",
            tile_px=source.tile_px, mpp=source.mpp, num_tiles=len(mine), columns=columns, jpeg=source.jpeg,
            provenance={"made_by": "benchmarks/ablation.py", "encoder": key},
        )  # fmt: skip
        nearest = alike.argmax(axis=1)
        for shard in range(store.num_shards):
            rows = store.shard_range(shard)
            store.commit("tiles", shard, store.write_tiles(shard, [used.read_payload(int(nearest[i])) for i in rows]))
    unfinished.rename(out)
    return out


def judged_folder(given: argparse.Namespace, stores: str) -> Path:
    """Return where the verdict on these tiles is written."""
    return given.out / f"judged-{'-'.join(Path(store).stem for store in stores.split(','))}"


def judge(given: argparse.Namespace, stores: str) -> dict[str, Any]:
    """Judge every run on labelled tiles, of one store or several with a comma between them."""
    specs = [
        f"{row}#{seed}={given.out / 'runs' / f'{row}-{seed}'}"
        for row in given.rows
        for seed in range(1 if row == "untrained" and given.seeds < 2 else given.seeds)
    ]
    out = judged_folder(given, stores)
    config = benchmark.BenchmarkConfig(
        tiles=[Path(store) for store in stores.split(",")],
        encoders=[*specs, "colour=colour"],
        out=out,
        overwrite=out.exists(),
        judge={"retrieval": True},
    )
    benchmark.run(config)
    return json.loads((out / "benchmark.json").read_text())


def holm(values: list[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979)."""
    order = np.argsort(values)
    steps = np.array(values)[order] * (len(values) - np.arange(len(values)))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


def against_dino(judged: dict[str, Any]) -> str:
    """Return the differences from DINO in balanced accuracy as Markdown, with corrected p."""
    found = []
    for d in judged["differences"]:
        a, b = (d[side].partition("#")[0] for side in "ab")
        if "DINO" in (a, b) and d["metric"].endswith(("balanced_accuracy", "map")):
            turned = {"a": b, "delta": -d["delta"], "ci95": [-value for value in reversed(d["ci95"])]}
            found.append({**d, "a": a} if b == "DINO" else {**d, **turned})
    corrected = holm([d["p"] for d in found])
    lines = [
        f"{len(found)} comparisons with DINO",
        "",
        "| row | test | points | p | p, Holm |",
        "| - | - | - | - | - |",
    ]
    for d, p in zip(found, corrected, strict=True):
        low, high = (100 * v for v in d["ci95"])
        test = d["metric"].rpartition(".")[0]
        lines.append(
            f"| {d['a']} | {test} | {100 * d['delta']:+.1f} [{low:+.1f}, {high:+.1f}] | {d['p']:.3f} | {p:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path, nargs="+")
    parser.add_argument("--generative", type=Path)
    parser.add_argument("--interpolated", type=Path)
    parser.add_argument("--judge", nargs="*", default=[], help="labelled stores; A,B are judged as one set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of every run; the config's by default")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--config", type=Path, default=Path("configs/pretrain/crc5_96px.yaml"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    given.neighbours = given.out / "neighbours"
    missing = {name for row in given.rows for name in ROWS[row].stores if getattr(given, name) is None}
    if missing:
        parser.error(f"these rows need --{' and --'.join(sorted(missing))}; or leave them out with --rows")
    rows = sorted(given.rows, key=lambda row: row == "neighbours")  # they need DINO's first run
    for part in ([row for row in rows if row != "neighbours"], [row for row in rows if row == "neighbours"]):
        if part == ["neighbours"]:
            neighbour_stores(given)
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            # seed by seed: what is there when it is stopped is comparable
            running = {pool.submit(train, given, row, seed): (row, seed) for seed in range(given.seeds) for row in part}
            for done in as_completed(running):
                row, seed = running[done]
                try:
                    results = done.result()
                except HistogenError as error:
                    raise SystemExit(f"{row}, seed {seed}: {error}") from error
                print(f"{row:16} seed {seed}  loss {results['loss_dino']:.3f}  {results['seconds']:.0f} s", flush=True)
    for stores in given.judge:
        judged = judge(given, stores)
        print((judged_folder(given, stores) / "benchmark.md").read_text(), against_dino(judged), flush=True)


if __name__ == "__main__":
    main()
