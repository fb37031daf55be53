"""``histogen configs``: the configs that come with the package, a line each, or one in full."""

from __future__ import annotations

import re
from pathlib import Path

from histogen.errors import ConfigError
from histogen.pipelines.outputs import Outcome
from histogen.shipped import find_config, shipped_configs

WIDTH = 100


def describe(name: str | None) -> Outcome:
    """Return the table of all configs, of those of one command, or the text of one.

    Raises:
        ConfigError: there is no such config, and no such command with any.
    """
    configs = shipped_configs()
    commands = {one.partition("/")[0] for one in configs}
    if name is not None and name not in commands:
        return Outcome(Path(), find_config(name).read_text().rstrip())
    chosen = {one: file for one, file in configs.items() if name in (None, one.partition("/")[0])}
    width = max(len(one) for one in chosen)
    lines = [f"{one.ljust(width)}  {summary(file)}" for one, file in chosen.items()]
    lines += ["", "Use one with `--config NAME`, change a key with `--set a.b=c`; `histogen configs NAME` prints it."]
    return Outcome(Path(), "\n".join(lines))


def summary(file: Path) -> str:
    """Return the first clause of what a config says of itself; its example of a command is left out.

    Raises:
        ConfigError: it says nothing.
    """
    comments = [line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")]
    said = " ".join(line.strip() for line in comments if line and not line.startswith(("histogen ", "--")))
    if not said:
        raise ConfigError(f"config '{file}' does not say what it is for; write it in its first lines")
    clause = re.split(r"(?<!et al)[.;](?: |$)", said, maxsplit=1)[0]
    return clause if len(clause) <= WIDTH else f"{clause[: WIDTH - 1]}…"
