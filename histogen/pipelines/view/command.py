"""``histogen view``: a page on this machine to look at slides, tiles, embeddings and synthetic tiles."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from histogen.errors import EncoderError
from histogen.pipelines.view.config import ViewConfig

if TYPE_CHECKING:
    from histogen.view.answers import Answers


def run(config: ViewConfig, *, say: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted, or export it; ``say`` is given its address.

    Raises:
        ConfigError, StoreError: a path cannot be used, nothing to look at is there, or the port is taken.
    """
    from histogen.view.server import Server, serve

    answers = open_rooms(config)
    if config.export is not None:
        from histogen.view.export import export

        count = export(answers, config.export, seed=config.seed, overwrite=config.overwrite)
        say(f"{count:,} tiles: open {config.export / 'index.html'} in a browser")
        return

    def ready(server: Server) -> None:
        tunnel = f"ssh -L {server.port}:localhost:{server.port} HOST"
        say(f"open {server.address} (Ctrl-C ends it; from another machine, first: {tunnel})")
        if config.browser:
            webbrowser.open(server.address)

    serve(answers, port=config.port, ready=ready)


def open_rooms(config: ViewConfig) -> Answers:
    """Return the answers of every room that has something to show.

    Raises:
        ConfigError, StoreError, EncoderError: a path or an encoder cannot be used, or nothing to look at is there.
    """
    from histogen.pipelines.view.outlines import Outlines
    from histogen.view.answers import Answers
    from histogen.view.maps import Maps
    from histogen.view.neighbours import Neighbours, encoders_of
    from histogen.view.predictions import add_predictions
    from histogen.view.runs import Runs
    from histogen.view.selection import Selection
    from histogen.view.sources import find_sources
    from histogen.view.synthetic import Synthetic

    answers = Answers(find_sources(config.paths), title=", ".join(path.name or str(path) for path in config.paths))
    known = encoders_of(answers.tiles)
    Neighbours(answers, [_embedded(spec, known) for spec in config.encoders] or known)
    Synthetic(answers)
    Maps(answers, answers.facts["encoders"], seed=config.seed)
    Selection(answers)
    Runs(answers, config.paths)
    Outlines(answers)
    add_predictions(answers, config.paths)
    if config.export is None:
        from histogen.pipelines.view.live import Live

        Live(answers, config.device)
    return answers


def _embedded(spec: str, known: Sequence[str]) -> str:
    """Return the name under which stores keep the embeddings of an encoder, which may be that name itself."""
    if spec in known:
        return spec
    from histogen.encoders.registry import load_encoder  # heavy

    name = load_encoder(spec).card.name
    if name not in known:
        raise EncoderError(f"no store has embeddings by '{spec}' ('{name}'); run histogen embed, with --encoder {spec}")
    return name
