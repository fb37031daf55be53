"""DINO against Gen-DINO at equal steps, with the paper's ablation, several seeds each, judged on held-out tiles.

    python benchmarks/ablation.py TILES --generative DIR --interpolated DIR --out DIR
        [--judge LABELLED …] [--seeds 3] [--steps N] [--config configs/pretrain/crc5_96px.yaml] [--set a.b=c]

Rows: DINO; pair views only; disentanglement only; both. Everything but the synthetic stores is the same. A run that is
done is not done again, so the script can be stopped and started. The judge is `histogen benchmark`: seeds of one row
are averaged, and rows compared with paired intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from histogen.config import load_config
from histogen.errors import HistogenError
from histogen.pipelines.benchmark import command as benchmark
from histogen.pipelines.pretrain import command as pretrain
from histogen.pipelines.pretrain.command import PretrainConfig

ROWS = {
    "DINO": (),
    "pairs": ("generative",),
    "disentanglement": ("interpolated",),
    "both": ("generative", "interpolated"),
}


def train(given: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    out = given.out / "runs" / f"{row}-{seed}"
    stores = {name: getattr(given, name) for name in ROWS[row]}
    flags = {"tiles": given.tiles, "out": out, "seed": seed, "resume": out.exists(), **stores}
    overrides = [*([f"optim.num_steps={given.steps}"] if given.steps else []), *given.set]
    config = load_config(PretrainConfig, file=given.config, overrides=overrides, flags=flags)
    return dict(pretrain.run(config).results)


def judge(given: argparse.Namespace, store: Path) -> dict[str, Any]:
    specs = [
        f"{row}#{seed}={given.out / 'runs' / f'{row}-{seed}'}" for row in given.rows for seed in range(given.seeds)
    ]
    out = given.out / f"judged-{store.stem}"
    config = benchmark.BenchmarkConfig(
        tiles=[store], encoders=[*specs, "colour=colour"], out=out, overwrite=out.exists()
    )
    benchmark.run(config)
    return json.loads((out / "benchmark.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path, nargs="+")
    parser.add_argument("--generative", type=Path)
    parser.add_argument("--interpolated", type=Path)
    parser.add_argument("--judge", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of every run; the config's by default")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--config", type=Path, default=Path("configs/pretrain/crc5_96px.yaml"))
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    missing = {name for row in given.rows for name in ROWS[row] if getattr(given, name) is None}
    if missing:
        parser.error(f"these rows need --{' and --'.join(sorted(missing))}; or leave them out with --rows")
    for seed in range(given.seeds):  # seed by seed: what is there when it is stopped is comparable
        for row in given.rows:
            try:
                results = train(given, row, seed)
            except HistogenError as error:
                raise SystemExit(f"{row}, seed {seed}: {error}") from error
            print(f"{row:16} seed {seed}  loss {results['loss_dino']:.3f}  {results['seconds']:.0f} s", flush=True)
    for store in given.judge:
        judge(given, store)
        print((given.out / f"judged-{store.stem}" / "benchmark.md").read_text(), flush=True)


if __name__ == "__main__":
    main()
