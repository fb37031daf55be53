"""Weights by a name of the Hugging Face hub: ``hf:ORG/NAME``, ``hf:ORG/NAME/FOLDER`` or ``hf:ORG/NAME/FILE``.

They are downloaded once, into the hub's own cache (``HF_HOME``), and found there again without a network. Only configs
and weights that cannot execute code are fetched.
"""

from __future__ import annotations

from pathlib import Path

import httpx
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from histogen.errors import ConfigError, first_line

PREFIX = "hf:"
WEIGHTS = (".safetensors", ".ckpt", ".pt")
FETCHED = ("config.json", "*.safetensors")


def local_path(spec: str) -> Path:
    """Return where the weights that ``spec`` names lie on this machine: ``spec`` itself unless it is a hub's name.

    Raises:
        ConfigError: the name is malformed or unknown, or not in the cache while the hub cannot be reached.
    """
    if not spec.startswith(PREFIX):
        return Path(spec)
    parts = spec.removeprefix(PREFIX).strip("/").split("/")
    if len(parts) < 2:
        raise ConfigError(f"'{spec}' is no name of the hub; write {PREFIX}ORG/NAME, or {PREFIX}ORG/NAME/FOLDER")
    repo, inner = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        if inner.endswith(WEIGHTS):
            return Path(hf_hub_download(repo, inner))
        wanted = [f"{inner}/{pattern}" if inner else pattern for pattern in FETCHED]
        return Path(snapshot_download(repo, allow_patterns=wanted)) / inner
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"'{spec}' is not in the local cache and the hub cannot be reached; connect to it, or download the files "
            "elsewhere and give their folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise ConfigError(
            f"the hub does not give '{spec}' ({first_line(error)}); check its name, or give a folder"
        ) from error


def short_name(spec: str) -> str:
    """Return what a record calls the weights that ``spec`` names: the hub's name, or the last part of a path."""
    return spec if spec.startswith(PREFIX) else Path(spec).name


def readable_name(folder: Path) -> str:
    """Return what to call weights in ``folder``: the repository's name in the hub's cache, else the folder's."""
    owner = next((part for part in folder.parts if part.startswith("models--")), None)
    return owner.split("--")[-1] if owner else folder.stem
