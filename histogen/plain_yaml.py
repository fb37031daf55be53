"""YAML as settings are written: text, numbers, true, false, null, lists and groups of keys; each key once.

Words mean what YAML 1.2 says, so that ``1e-5`` is a number, ``on`` and ``2020-01-02`` are text; so is a number that
begins with a nought, as names of slides and classes do. Aliases and merge keys are read; nothing is executed.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import yaml

from histogen.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}$")
_DATE_TAG = "!looks-like-a-date"
_WORDS = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
_KINDS = {"null": "null", "bool": "true or false", "int": "a whole number", "float": "a number"}
_READ = frozenset({"str", "seq", "map", *_WORDS})

MAX_DEPTH = 32
"""Lists and groups in each other."""
MAX_VALUES = 100_000
"""Values, those behind aliases counted wherever they stand: a short text can stand for millions."""
MAX_DIGITS = 20
"""Digits of a whole number of 64 bits, and a sign."""


def parse_yaml(text: str, *, where: str) -> Any:
    """Return what ``text`` says; ``where`` begins the sentence about what cannot be read.

    Raises:
        ConfigError: it is not YAML, has a key twice or a value that no setting can have.
    """
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
        for number, _ in enumerate(_values(value, MAX_DEPTH)):
            if number > MAX_VALUES:
                raise _Refused(problem=f"it stands for more than {MAX_VALUES:,} values; write fewer")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ConfigError(f"{where}{line}: {_problem(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: it has a character that YAML cannot hold ({_place(error)}); delete it") from error
    return value


def dump_yaml(value: Any) -> str:
    """Return ``value`` (JSON's types) as YAML that :func:`parse_yaml`, and any YAML 1.1 reader, reads back the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def is_number(text: str) -> bool:
    """Whether a text would be a number if it did not stand in quotes."""
    return bool(_INT.fullmatch(text) or _FLOAT.fullmatch(text))


class _Refused(yaml.MarkedYAMLError):
    """What this file refuses; the problem says what to do as well."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - of the base class, filled below

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []  # anchors of the lists and groups around

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it is too deep or holds itself."""
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise _Refused(problem=f"'*{event.anchor}' refers to itself; write it out", problem_mark=mark)
            return super().compose_node(parent, index)
        if len(self._open) >= MAX_DEPTH:
            raise _too_deep(mark)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a group of keys, unless a key stands in it twice or is no text."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                said = f"the key {key.value}" if isinstance(key, yaml.ScalarNode) else "a key that is a list or a group"
                raise _Refused(problem=f"{said} is no text; write a name, in quotes", problem_mark=key.start_mark)
            if key.value in lines:
                said = f"key '{key.value}' is given twice (first on line {lines[key.value]}); keep one of them"
                raise _Refused(problem=said, problem_mark=key.start_mark)
            lines[key.value] = line
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Put what is merged (``<<``) into a group, each key once: what stands in the group itself wins."""
        super().flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())

    def read_word(self, node: Any) -> Any:
        """Construct null, a truth value or a number."""
        kind = node.tag.removeprefix(_TAG)
        word = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not isinstance(node, yaml.ScalarNode) or not _WORDS[kind].fullmatch(word):
            raise _Refused(problem=f"'{word:.40}' is not {_KINDS[kind]}; mend it", problem_mark=node.start_mark)
        if kind == "null":
            return None
        if kind == "bool":
            return word.lower() == "true"
        if kind == "float":
            return float(re.sub(r"\.(?=[iInN])", "", word))  # Python writes inf and nan without the dot
        if len(word) > MAX_DIGITS:
            said = f"{word:.10}… is a number of {len(word)} digits; write a smaller one"
            raise _Refused(problem=said, problem_mark=node.start_mark)
        return int(word, 0) if word[:2] in ("0x", "0o") else int(word)

    def read_date(self, node: Any) -> str:
        """Construct text from what looks like a date, unless no calendar has it: other readers stop there."""
        text = str(node.value)
        try:
            datetime.date.fromisoformat(text)
        except ValueError as error:
            said = f"'{text}' looks like a date, and there is no such day; put it in quotes if it is a name"
            raise _Refused(problem=said, problem_mark=node.start_mark) from error
        return text

    def refuse_tag(self, node: Any) -> Any:
        """Refuse dates, bytes, sets, objects and all else that a tag asks for."""
        tag = node.tag.replace(_TAG, "!!")
        raise _Refused(problem=f"the tag '{tag}' is not read; write text or a number", problem_mark=node.start_mark)


for _kind, _pattern in _WORDS.items():
    _first = {"null": ["~", "n", "N", ""], "bool": list("tTfF")}.get(_kind, list("-+0123456789."))
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern.pattern})$"), _first)
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.read_word)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile("<<$"), ["<"])
for _tag in [tag for tag in _Loader.yaml_constructors if tag and tag.removeprefix(_TAG) not in _READ]:
    _Loader.add_constructor(_tag, _Loader.refuse_tag)
_Loader.add_constructor(None, _Loader.refuse_tag)
_Loader.add_implicit_resolver(_DATE_TAG, _DATE, list("0123456789"))
_Loader.add_constructor(_DATE_TAG, _Loader.read_date)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would take for something else than text, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class has it
        return True


for _kind, _pattern in _WORDS.items():
    _Dumper.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern.pattern})$"), None)


def check_texts(values: Any) -> None:
    """Refuse texts, also names of files, that no file and no terminal can take.

    Raises:
        ConfigError: one holds a null byte or half of a character.
    """
    for one in _values(values, 3 * MAX_DEPTH):
        text = str(one) if isinstance(one, str | PurePath) else ""
        shown = text.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
        if "\0" in text:
            raise ConfigError(f"'{shown:.60}' has a null byte (\\0), which no text and no path may have; delete it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"'{shown:.60}' is not Unicode ({error.reason}); write, or rename, it in UTF-8"
            ) from error


def _values(value: Any, depth: int) -> Iterator[Any]:
    """Yield every value and key, those behind aliases wherever they stand."""
    if depth < 0:
        raise _too_deep()
    yield value
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from _values(one, depth - 1)


def _too_deep(mark: Any = None) -> _Refused:
    said = f"more than {MAX_DEPTH} lists and groups are in each other; write fewer"
    return _Refused(problem=said, problem_mark=mark)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem).split())
    if isinstance(error, _Refused):
        return problem
    context = f"{' '.join(error.context.split())}: " if error.context else ""
    return f"it is not YAML ({context}{problem}); mend it, or quote the text"


def _place(error: yaml.YAMLError) -> str:
    position, character = getattr(error, "position", None), getattr(error, "character", None)
    shown = f"U+{character:04X}" if isinstance(character, int) else repr(character)
    return shown if position is None else f"{shown}, at position {position}"
