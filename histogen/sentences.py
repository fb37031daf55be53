"""What pydantic found in a config, as one sentence: the key, its value, and what would do instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Loc = tuple[int | str, ...]

WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text (a number as text stands in quotes)",
    "path_type": "a path (a number as a name stands in quotes)",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "missing": "more values",
    "too_short": "{min_length} values or more",
    "too_long": "{max_length} values at most",
}
"""What may stand instead, by the type of pydantic's error."""
MAX_SHOWN = 60
NEAR = 0.7
"""Likeness from which on a key may have been meant: 'sede' is 'seed' (0.75), 'model' is not 'codec' (0.6)."""


def sentence_of(cls: type[BaseModel], error: ValidationError, values: Mapping[str, Any], where: str) -> str:
    """Return the sentence about the first mistake in ``values``; ``where`` follows the value (`` in FILE``)."""
    first = first_of(error)
    path = path_in(values, first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(cls, path, where)
    if first["type"] == "value_error":  # of a validator over several keys: it names them
        message = first["msg"].removeprefix("Value error, ")
        return f"{dotted(path) + ': ' if path else ''}{message}{where}"
    said = [(path_in(values, other["loc"]), other) for other in error.errors()]
    branches = [(found, other) for found, other in said if found[: len(path)] == path]
    deepest = max(len(found) for found, _ in branches)
    if deepest > len(path):  # one of several types that the value may have is nearly met: what is said deep in it
        path = next(found for found, _ in branches if len(found) == deepest)
    ways = dict.fromkeys(_way(other) for found, other in branches if found == path)
    return refusal(path, value_at(values, path), where, _joined(list(ways)))


def refusal(path: Loc, value: Any, where: str, instead: str) -> str:
    """Return the sentence about one value."""
    return f"'{dotted(path)}' cannot be {shown(value)}{where}: give {instead}"


def first_of(error: ValidationError) -> Any:
    """The mistake to speak of: an unknown key before a missing one, which it may have been meant for."""
    found = error.errors()
    return next((each for each in found if each["type"] == "extra_forbidden"), found[0])


def missing_keys(error: ValidationError) -> list[str]:
    """Return the keys that must be given and are not, when that is the first mistake."""
    if first_of(error)["type"] != "missing":
        return []
    locs = [each["loc"] for each in error.errors() if each["type"] == "missing"]
    return [dotted(loc) for loc in locs if isinstance(loc[-1], str)]


def path_in(values: Any, loc: Loc) -> Loc:
    """Return the keys and indices of ``loc``; its other parts name the types that pydantic tried."""
    path: list[int | str] = []
    for part in loc:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, Sequence) and not isinstance(values, str) and isinstance(part, int):
            if part >= len(values):
                break
            values = values[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def value_at(values: Any, path: Loc) -> Any:
    """Return what stands at ``path``."""
    for part in path:
        values = values[part]
    return values


def dotted(path: Loc) -> str:
    """Return a path as ``--set`` takes it."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """Return a value as YAML has it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str | int | float | list | dict) else f"'{value}'"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _way(error: Any) -> str:
    words = WORDS.get(error["type"])
    if words is None:
        return f"something else ({error['msg'][0].lower()}{error['msg'][1:]})"
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()}
    return words.format(**context)


def _joined(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"


def _unknown(cls: type[BaseModel], path: Loc, where: str) -> str:
    known = sorted(model.model_fields) if (model := _model_at(cls, path[:-1])) else []
    leaf, every = str(path[-1]), list(every_key(cls))
    near = [key for key in every if key.rpartition(".")[2] == leaf]
    if not near:
        parent = f"{dotted(path[:-1])}." if len(path) > 1 else ""
        near = [f"{parent}{key}" for key in difflib.get_close_matches(leaf, known, n=1, cutoff=NEAR)]
    near = near or difflib.get_close_matches(leaf, every, n=1, cutoff=NEAR)
    hint = f"did you mean '{near[0]}'" if near else f"known keys are {', '.join(known)}"
    return f"unknown key '{dotted(path)}'{where}; {hint}"


def every_key(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield each key of a config, dotted, and those of the groups within it."""
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}"
        model = _model_in(field.annotation)
        if model is not None:
            yield from every_key(model, f"{prefix}{name}.")


def _model_at(cls: type[BaseModel], path: Loc) -> type[BaseModel] | None:
    found: type[BaseModel] | None = cls
    for part in path:
        field = found.model_fields.get(str(part)) if found else None
        found = _model_in(field.annotation) if field else found if isinstance(part, int) else None
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The group of keys that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in typing.get_args(annotation) if (model := _model_in(inner))), None)
