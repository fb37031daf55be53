"""What is wrong with a command line, in one sentence: what, where, and the very thing to type.

Typer raises the exceptions of a library that is its own affair; they are known here by what they carry.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from histogen.errors import ConfigError, MissingSettingError

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""The base of what typer raises for a command line that cannot be read."""

KINDS = {"integer": "a whole number", "float": "a number"}


class Command(TyperCommand):
    """A command that says which of its arguments and options are missing, and shows an example."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ConfigError: something that it needs is not given, or its config is one of another command.
        """
        try:
            return super().invoke(ctx)
        except MissingSettingError as error:
            raise ConfigError(_missing(self, error)) from error
        except ConfigError as error:
            other = _command_of(ctx)
            if other in (None, self.name) or not str(error).startswith("unknown key"):
                raise
            given = f"config '{ctx.params['config']}' is one of histogen {other}, not of histogen {self.name}"
            raise ConfigError(f"{given}: {str(error).partition(';')[0]}; see configs/{self.name}/") from error


def usage_sentence(error: Any) -> str:
    """Return the sentence about a command line that cannot be read."""
    command, message = error.ctx.command if error.ctx else None, str(error.message)
    option = getattr(error, "option_name", None)
    if option is not None and "requires an argument" in message:
        return f"{option} needs a value after it; see --help for what it can be"
    if command is None:
        return _plain(message)
    if (found := re.match(r"No such command '(.*?)'", message)) is not None:
        return _no_command(command, found[1])
    where = error.ctx.command_path
    if option is not None:
        return _no_option(command, where, option)
    if (param := getattr(error, "param", None)) is not None:
        value = re.match(r"'(.*)' is not", message)
        kind = KINDS.get(getattr(param.type, "name", ""))
        if value is not None and kind is not None:
            return f"{param.opts[-1]} cannot be '{value[1]}': give {kind}"
    if (extra := re.match(r"Got unexpected extra arguments? \((.*)\)", message)) is not None:
        taken = " ".join(_metavar(param) for param in command.params if param.param_type_name == "argument")
        return f"{where} takes {taken or 'no argument'}, and '{extra[1]}' is too much; {_example(command)}"
    return f"{where}: {_plain(message)}; {_example(command)}"


def _command_of(ctx: Any) -> str | None:
    """The command whose config was given, by the folder that it lies in (``configs/tile/demo.yaml``)."""
    given = ctx.params.get("config")
    folder = Path(given).parent.name if given is not None else ""
    return folder if folder in ctx.parent.command.commands else None


def _missing(command: Any, error: MissingSettingError) -> str:
    needed = sorted((_needed(command, key) for key in error.keys), key=lambda words: words.startswith("--"))
    listed = needed[0] if len(needed) == 1 else f"{', '.join(needed[:-1])} and {needed[-1]}"
    beside = f", or in {error.file}" if error.file is not None else ""
    return f"histogen {command.name} needs {listed}{beside}; {_example(command)}"


def _needed(command: Any, key: str) -> str:
    param = next((param for param in command.params if param.name.rstrip("_") in (key, key.removesuffix("s"))), None)
    if param is None:
        return f"--set {key}=…"
    if param.param_type_name == "argument":
        return f"{_metavar(param)} ({_lower(param.help.rstrip('.'))})"
    return f"{param.opts[-1]} {_metavar(param)}"


def _no_command(group: Any, name: str) -> str:
    near = difflib.get_close_matches(name, group.commands, n=1)
    hint = f"did you mean 'histogen {near[0]}'" if near else f"there are {', '.join(group.commands)}"
    return f"there is no command '{name}'; {hint}"


def _no_option(command: Any, where: str, option: str) -> str:
    known = [name for param in command.params if param.param_type_name == "option" for name in param.opts]
    near = difflib.get_close_matches(option, known, n=1, cutoff=0.75)
    hint = f"did you mean '{near[0]}'" if near else f"'{where} --help' lists them"
    settings = "; a setting without an option is given as --set key=value" if "--set" in known else ""
    return f"{where} has no option '{option}'; {hint}{settings}"


def _example(command: Any) -> str:
    _, found, example = (command.help or "").partition("Example:")
    return f"for example: {' '.join(example.split())}" if found else f"see histogen {command.name} --help"


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.rstrip("_").upper())


def _lower(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _plain(message: str) -> str:
    return _lower(" ".join(message.split()).rstrip("."))
