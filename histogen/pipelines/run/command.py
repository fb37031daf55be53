"""``histogen run``: the whole chain from one YAML. A stage that is done is skipped, an interrupted one goes on."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path

from rich.console import Console

from histogen.config import StageConfig, changed_keys
from histogen.errors import ConfigError
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, is_claimed, is_complete, read_config
from histogen.pipelines.run.chain import (
    RunConfig,
    Stage,
    StageRecord,
    chain,
    config_class_of,
    stage_config,
)
from histogen.pipelines.run.forecast import Forecast, measure_speed, minutes
from histogen.store.tile_set import open_tiles

__all__ = ["RunConfig", "run"]


@for_its_output
def run(config: RunConfig) -> Outcome:
    """Run every stage that is not done, then write the report.

    Raises:
        ConfigError: a setting of the chain or of one of its stages cannot be used; said before anything is made.
    """
    for stage in chain(config):
        stage_config(stage, config, config_class_of(stage))
    _claim(config)
    console = Console(stderr=True)
    forecast = _forecast(config, console)
    records = {record.name: record for record in _read_records(config.out)}
    for number, stage in enumerate(stages := chain(config), start=1):
        console.print(f"[bold]{number}/{len(stages) + 1} {stage.name}[/bold]")
        record = run_stage(stage, config, earlier=records.get(stage.name))
        console.print(record.summary, highlight=False, soft_wrap=True)
        took = "done before" if record.skipped else f"{record.seconds:,.1f} s"
        if forecast is not None:
            forecast.finished(stage.name, None if record.skipped else record.seconds)
            took += f"; {minutes(forecast.left())} left"
        console.print(f"({took})", style="dim", highlight=False)
        records[stage.name] = record
        _write_records(config.out, list(records.values()))
    console.print(f"[bold]{len(stages) + 1}/{len(stages) + 1} report[/bold]")
    from histogen.pipelines.run.report import write_chain_report  # needs torch, which checking a config does not

    page, summary = write_chain_report(config, list(records.values()))
    finish_output(config.out, report=str(page.relative_to(config.out)))
    failures = tuple(failure for record in records.values() for failure in record.failures)
    return Outcome(config.out, summary, failures, page=page)


def _forecast(config: RunConfig, console: Console) -> Forecast | None:
    """Measure this machine and say how long the chain will take, where it was timed on a known one."""
    if config.reference is None:
        return None
    forecast = Forecast(config.reference, [stage.name for stage in chain(config)], measure_speed(config.device))
    console.print(f"On this machine this will take {minutes(forecast.left())}.", highlight=False)
    return forecast


def run_stage(stage: Stage, config: RunConfig, *, earlier: StageRecord | None) -> StageRecord:
    """Run one stage unless it is done with the same settings."""
    if stage.needs_labels and not open_tiles(stage.given["tiles"]).has_column("label"):
        return StageRecord(stage.name, 0.0, "not run: the tiles have no labels; pass --set labelled=FOLDER")
    built = stage_config(stage, config, config_class_of(stage))
    has_output = "out" in stage.given
    if has_output and is_complete(built.out):
        _check_unchanged(stage.name, built)
        if earlier is not None:
            return StageRecord(earlier.name, earlier.seconds, earlier.summary, earlier.failures, skipped=True)
    start = time.monotonic()
    go_on = built.model_copy(update={"resume": not has_output or built.out.exists()})
    outcome = importlib.import_module(f"histogen.pipelines.{stage.module}").run(go_on)
    return StageRecord(stage.name, time.monotonic() - start, outcome.summary, outcome.failures)


def _claim(config: RunConfig) -> None:
    """Claim the output; unlike a single stage, a chain goes on by itself where its settings are the same."""
    same = is_claimed(config.out) and not config.overwrite
    claim_output(config.model_copy(update={"resume": config.resume or same}), command="run")


def _check_unchanged(name: str, built: StageConfig) -> None:
    changes = changed_keys(read_config(built.out), built.model_dump(mode="json"))
    if changes:
        raise ConfigError(
            f"stage '{name}' in '{built.out}' was done with other settings: {'; '.join(changes)}; "
            "choose another --out, or --overwrite"
        )


def _records_path(out: Path) -> Path:
    return out / "stages.json"


def _read_records(out: Path) -> list[StageRecord]:
    path = _records_path(out)
    if not path.exists():
        return []
    return [StageRecord(**{**row, "failures": tuple(row["failures"])}) for row in json.loads(path.read_text())]


def _write_records(out: Path, records: list[StageRecord]) -> None:
    rows = [{"name": r.name, "seconds": round(r.seconds, 2), "summary": r.summary, "failures": list(r.failures)}
            for r in records]  # fmt: skip
    write_atomic(_records_path(out), json.dumps(rows, indent=1))
