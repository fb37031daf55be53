"""``histogen encoders``: which published encoders there are, what each needs, and one card in full."""

from __future__ import annotations

from pathlib import Path

from histogen.config import dump_config
from histogen.encoders.published import PublishedCard, published_card, published_names
from histogen.pipelines.outputs import Outcome

HEAD = ("name", "length", "made for", "licence", "weights")


def describe(name: str | None) -> Outcome:
    """Return the table of all, or the card of ``name``; nothing is loaded or fetched.

    Raises:
        EncoderError: there is no such card.
    """
    if name is not None:
        card = published_card(name)
        return Outcome(Path(), f"{dump_config(card).rstrip()}\n# weights: {weights_of(card)}", (), {})
    cards = [published_card(one) for one in published_names()]
    rows = [HEAD, *((card.name, f"{card.dim:,}", made_for(card), card.licence, weights_of(card)) for card in cards)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    lines += [
        "",
        "`--encoder NAME` takes the weights of the hub, `--encoder NAME@FILE` those of a file; your own card is a",
    ]
    lines += ["YAML file with the keys of `histogen encoders NAME`: `--encoder card.yaml@FILE`"]
    return Outcome(Path(), "\n".join(lines), (), {})


def made_for(card: PublishedCard) -> str:
    """Return for which tiles an encoder was made."""
    side = f"{card.tile_px or card.image_px} px"
    return f"{side}, {card.mpp:g} mpp" if card.mpp else side


def weights_of(card: PublishedCard) -> str:
    """Return whether the weights are here, and what it takes to get them."""
    if card.loader == "package":
        return f"not loaded here: needs {card.needs}"
    if _is_cached(card):
        return "here"
    return f"after a login at {card.hub}" if card.gated else f"fetched from {card.hub}"


def _is_cached(card: PublishedCard) -> bool:
    """Return whether the hub's cache on this machine has the weights."""
    from huggingface_hub import try_to_load_from_cache

    names = [card.file] if card.file else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(str(card.hub), str(file)), str) for file in names)
