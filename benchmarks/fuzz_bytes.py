"""Ways of spoiling a valid input: its bytes, its text, and the values of a tree of JSON."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

INTERESTING = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
)
TOKEN = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\w+|[^\w\s]")
NESTED = 3000
ODD_WORDS = (
    "", "0", "-1", "1e308", "1e-5", "nan", "inf", "-inf", "9999999999999999999", "0x10", "0.1.2", "1,5", "1_000", "yes",
    "no", "on", "null", "~", "true", "2026-13-45", "2001-01-01", "../../evil", "/tmp/evil", "~nosuchuser/x", "a/b", ".",
    "..", "é", "\u202e", "\0", "\ufeff", "=", "*a", "&a", "[", "{", "]", "}", ":", "- ", "? ", "<<: *x", "!!binary x",
    "!!python/object:os.system", "a" * 300, "[" * NESTED, "{a: " * 500, "'", '"', "\\", "%", "<", ">", "&amp;", "&#0;",
    "\n", "\t", "#", "|",
)  # fmt: skip
"""What takes the place of a word: numbers that are none, paths that lead out, halves of brackets, other types."""


def spoil_bytes(data: bytes, draw: Random, spots: Sequence[int] = ()) -> bytes:
    """Return ``data`` with one to three changes; four of five changed bytes lie at ``spots``, where there are any."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if not content:
            break
        at = draw.choice(spots) if spots and draw.random() < 0.8 else draw.randrange(len(content))
        at = min(at, len(content) - 1)
        span = min(draw.choice((1, 4, 16, 256)), len(content) - at)
        kind = draw.random()
        if kind < 0.35:
            content[at] ^= 1 << draw.randrange(8)
        elif kind < 0.75:
            value = draw.choice((*INTERESTING, draw.randbytes(1), draw.randbytes(4)))
            content[at : at + len(value)] = value
        elif kind < 0.81:
            del content[draw.randrange(len(content)) :]
        elif kind < 0.87:
            del content[at : at + span]
        elif kind < 0.93:
            content[at:at] = content[at : at + span]
        elif kind < 0.97:
            content[at : at + span] = bytes(span)
        else:
            content[at:at] = draw.randbytes(span)
    return bytes(content)


def spoil_text(text: str, draw: Random) -> bytes:
    """Return ``text`` with words and lines changed, swapped, doubled or gone; now and then in another encoding."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        words = list(TOKEN.finditer(text))
        lines = text.splitlines(keepends=True)
        kind = draw.random()
        if words and kind < 0.6:
            word, other = draw.choice(words), draw.choice(words)[0]
            text = text[: word.start()] + draw.choice((*ODD_WORDS, other)) + text[word.end() :]
        elif words and kind < 0.7:
            word = draw.choice(words)
            text = text[: word.start()] + text[word.end() :]
        elif lines and kind < 0.9:
            line = draw.randrange(len(lines))
            moved = [] if kind < 0.77 else [lines[line]] * draw.choice((1, 2))
            lines[line : line + 1] = []
            place = draw.randrange(len(lines) + 1)
            lines[place:place] = moved
            text = "".join(lines)
        elif lines and kind < 0.95:
            line = draw.randrange(len(lines))
            lines[line] = draw.choice(("  ", "\t", "- ", "# ", " ")) + lines[line]
            text = "".join(lines)
        else:
            text = text[: draw.randrange(len(text) + 1)]
    encoding = draw.choice(("utf-8",) * 20 + ("utf-16", "latin-1", "utf-8-sig"))
    return text.encode(encoding, errors="replace")


def odd_value(draw: Random) -> Any:
    """Return a value of JSON that is not expected anywhere."""
    values = (
        None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [0], [None],
        {"a": 1}, [[[]]], draw.choice(ODD_WORDS), draw.choice(ODD_WORDS), str(draw.randrange(100)),
        draw.randrange(-5, 300), deep(60),
    )  # fmt: skip
    return draw.choice(values)


def deep(levels: int) -> Any:
    """Return a list in a list in a list …"""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def spoil_tree(tree: Any, draw: Random, odd: Callable[[Random], Any] = odd_value) -> Any:
    """Return ``tree`` (of dicts and lists, which are changed) with one to three of its values changed or gone."""
    root = {"root": tree}
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(root))
        if not places:
            break
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.55:
            holder[key] = odd(draw)
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.85:
            other, name = draw.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])  # a tree must not lead back into itself
        elif kind < 0.95 and isinstance(holder, dict):
            holder[draw.choice((str(key).upper(), f"{key}x", draw.choice(ODD_WORDS)))] = holder.pop(key)
        else:
            holder[key] = [holder[key]]
    return root.get("root")


def _places(node: Any) -> Any:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        yield node, key
        yield from _places(value)


def spoil_json(data: bytes, draw: Random) -> bytes:
    """Return a document of JSON with its values, its words or its bytes changed."""
    kind = draw.random()
    if kind < 0.6:
        try:
            return json.dumps(spoil_tree(json.loads(data), draw)).encode()
        except (ValueError, RecursionError):  # it was spoilt before
            return data + b"}"
    return spoil_text(data.decode(errors="replace"), draw) if kind < 0.85 else spoil_bytes(data, draw)


def spoil_xml(data: bytes, draw: Random) -> bytes:
    """Return a document of XML with elements, attributes or texts changed, or its words or bytes."""
    kind = draw.random()
    if kind > 0.7:
        return spoil_text(data.decode(), draw) if kind < 0.9 else spoil_bytes(data, draw)
    root = ElementTree.fromstring(data)  # noqa: S314 - our own
    plain = [word for word in ODD_WORDS if "\0" not in word]
    for _ in range(draw.choice((1, 1, 2, 3))):
        above = draw.choice([node for node in root.iter() if len(node)] or [root])
        inner = draw.choice(list(root.iter()))
        change = draw.random()
        if inner.attrib and change < 0.4:
            key = draw.choice(sorted(inner.attrib))
            inner.set(key, draw.choice((*plain, draw.choice(list(root.iter())).get(key, "x"))))
        elif inner.attrib and change < 0.5:
            inner.attrib.pop(draw.choice(sorted(inner.attrib)))
        elif change < 0.65:
            inner.text = draw.choice(plain)
        elif change < 0.72:
            inner.tag = draw.choice(
                ("Annotation", "Region", "annotation", "Vertex", "x", "Coordinates", f"{inner.tag}s")
            )
        elif len(above) and change < 0.82:
            above.remove(draw.choice(list(above)))
        elif change < 0.92:
            above.insert(draw.randrange(len(above) + 1), copy.deepcopy(inner))
        else:
            for _ in range(draw.choice((3, 60))):
                inner = ElementTree.SubElement(inner, inner.tag, dict(inner.attrib))
    return bytes(ElementTree.tostring(root, encoding=draw.choice(("utf-8", "utf-8", "utf-16"))))
