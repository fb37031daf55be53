"""What every command shares: its options, and the one way from flags to a pipeline's ``run``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from histogen.config import StageConfig
    from histogen.pipelines.outputs import Outcome

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML with differences from the defaults: a file, or one shipped (pretrain/demo).",
        rich_help_panel="Common",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key; repeatable.", rich_help_panel="Common"),
]
Seed = Annotated[
    int | None, typer.Option(help="Same seed, same bytes. (default: 0)", show_default=False, rich_help_panel="Common")
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu or cuda. (default: auto)", show_default=False, rich_help_panel="Common"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an output that exists.", rich_help_panel="Common")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete an output that exists, and redo it.", rich_help_panel="Common")
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Local Dask workers; 0 runs in this process. (default: 0)", show_default=False, rich_help_panel="Bulk"
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="tcp://…", help="Address of a running Dask scheduler.", rich_help_panel="Bulk"),
]
Cluster = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.yaml", help="Start workers as jobs of a queue: system, jobs, job.", rich_help_panel="Bulk"
    ),
]
DaskReport = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Serve Dask's dashboard and keep its report.", rich_help_panel="Bulk"),
]
CheckpointKey = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-key",
        metavar="KEY",
        show_default=False,
        help="Which weights of a file that holds several; the teacher's or averaged ones by default.",
    ),
]
Tiles = Annotated[
    list[Path] | None, typer.Argument(metavar="TILES…", help="Tile stores, folders of them, or manifests.")
]


E = TypeVar("E", str, list[str])


def with_key(specs: E | None, key: str | None) -> E | None:
    """Return encoders (``FILE`` or ``NAME=FILE``) with the key of the weights that are meant.

    Raises:
        ConfigError: there is a key and no encoder on the command line to belong to.
    """
    from histogen.errors import ConfigError

    if key is None:
        return specs
    if not specs:
        raise ConfigError(f"--checkpoint-key {key} belongs to no encoder here; in a config, write FILE#{key}")
    return f"{specs}#{key}" if isinstance(specs, str) else [f"{spec}#{key}" for spec in specs]


C = TypeVar("C", bound="StageConfig")


def execute(
    config_class: type[C],
    run: Callable[[C], Outcome],
    *,
    file: Path | None,
    overrides: list[str] | None,
    **flags: Any,
) -> None:
    """Build the config, run the stage, print its summary and failures, and exit with its code."""
    finish(run(build_config(config_class, file=file, overrides=overrides, **flags)))


def build_config(config_class: type[C], *, file: Path | None, overrides: list[str] | None, **flags: Any) -> C:
    """Return the config that file, overrides and flags say; what is wrong is said before torch is imported.

    Raises:
        ConfigError: a file, key or value cannot be used.
    """
    from histogen.config import load_config
    from histogen.errors import ConfigError
    from histogen.shipped import find_config

    if flags.get("resume") and flags.get("overwrite"):
        raise ConfigError("--resume and --overwrite were both given; --overwrite would delete what --resume continues")
    given = {key: value for key, value in flags.items() if value is not None and value is not False and value != []}
    return load_config(config_class, file=find_config(file) if file else None, overrides=overrides or (), flags=given)


def finish(outcome: Outcome) -> None:
    """Print what a stage did and exit with 1 when some of its units failed; of `torchrun`'s processes, one prints."""
    if os.environ.get("RANK", "0") != "0":
        return
    for failure in outcome.failures:
        typer.echo(f"failed: {failure}", err=True)
    typer.echo(outcome.summary)
    if outcome.page is not None:
        typer.echo(f"report: {outcome.page}")
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)
