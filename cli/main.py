"""The application: its commands and the one error boundary.

Exit codes: 0 all done, 1 some units failed (each with its sentence), 2 the user can mend it (one line, no traceback),
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

import histogen
from histogen.errors import HistogenError
from histogen.files import disk_sentence
from histogen.lease import give_back_all

from . import (
    benchmark,
    configs,
    demo,
    embed,
    encoders,
    export,
    fidelity,
    import_features,
    import_images,
    inspect,
    plan,
    pretrain,
    run,
    synthesize,
    tile,
    train_autoencoder,
    train_eldm,
    view,
)
from .usage import Command, UsageError, usage_sentence

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; typer turns the interrupt into it."""

app = typer.Typer(
    name="histogen",
    help="From slides to a stronger self-supervised encoder: DINO → E-LDM → synthetic tiles → Gen-DINO → benchmark.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

for module, panel in (
    (demo, "Start here"),
    (run, "Start here"),
    (configs, "Start here"),
    (inspect, "Start here"),
    (view, "Start here"),
    (plan, "Tiles"),
    (tile, "Tiles"),
    (import_images, "Tiles"),
    (export, "Tiles"),
    (import_features, "Tiles"),
    (pretrain, "Encoders"),
    (encoders, "Encoders"),
    (embed, "Encoders"),
    (benchmark, "Encoders"),
    (train_autoencoder, "Synthetic tiles"),
    (train_eldm, "Synthetic tiles"),
    (synthesize, "Synthetic tiles"),
    (fidelity, "Synthetic tiles"),
):
    app.command(module.NAME, cls=Command, rich_help_panel=panel)(module.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"histogen {histogen.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback answers it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Show the commands when none is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the application; a deliberate error is one line on standard error."""
    # OpenMP threads that spin while they wait make a training six times slower as soon as other processes compete for
    # the cores; read by OpenMP when torch is imported, so it must be set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if code := app(prog_name="histogen", standalone_mode=False):
            sys.exit(code)
    except HistogenError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except UsageError as error:
        sys.stderr.write(f"error: {usage_sentence(error)}\n")
        sys.exit(2)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sys.stderr.write(f"error: '{str(error.filename)[:40]}…' is a name that no file can have; shorten it\n")
            sys.exit(2)
        sentence = disk_sentence(error)
        if sentence is None:
            raise
        sys.stderr.write(f"error: {sentence}\n")
        sys.exit(2)
    except KeyboardInterrupt:  # before typer had come to listen
        _stop()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            _stop()
        raise


def _stop() -> NoReturn:
    """End an interrupted command."""
    sys.stderr.write(
        "stopped; finished shards and checkpoints are kept: run the same command again, with --resume if it has it\n"
    )
    sys.stderr.flush()
    give_back_all()
    os._exit(INTERRUPTED)  # threads that still work on a shard are not waited for: files are whole or absent
