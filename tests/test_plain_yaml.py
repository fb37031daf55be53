"""YAML of settings: words mean what they look like, each key stands once, and what cannot be is one sentence."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import yaml

from histogen.errors import ConfigError
from histogen.plain_yaml import check_texts, dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("+3e+10", 3e10), ("-2.5e-3", -2.5e-3), (".5", 0.5), ("1.", 1.0), ("0.5", 0.5),
        ("-.inf", -math.inf), ("7", 7), ("-3", -3), ("0", 0), ("0x1F", 31), ("0o17", 15), ("!!int 12", 12),
        ("!!str 12", "12"), ("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("1e", "1e"), ("e5", "e5"),
        ("2020-01-02", "2020-01-02"), ("'2020-13-45'", "2020-13-45"), ("2020-1-45", "2020-1-45"),
        ("12:30:45", "12:30:45"), ("1_000", "1_000"),
        ("007", "007"), ("00.5", "00.5"), ("0x", "0x"), ("0o9", "0o9"), (".", "."), ("1.2.3", "1.2.3"), ("=", "="),
        ("[1, on, 1e-3]", [1, "on", 1e-3]), ("{a: {b: .1}}", {"a": {"b": 0.1}}),
    ],
)  # fmt: skip
def test_a_word_means_what_it_looks_like(word: str, value: Any) -> None:
    found = parse_yaml(f"key: {word}", where="x")["key"]
    assert (found, type(found)) == (value, type(value))


def test_not_a_number_is_a_number() -> None:
    assert all(math.isnan(value) for value in parse_yaml("[.nan, .NaN, .NAN]", where="x"))


def test_aliases_and_merges_are_read_and_own_keys_win() -> None:
    text = "a: &a {k: 1, l: 2}\nb: {<<: *a, k: 3}\nc: *a\nd: {<<: [{k: 4}, *a]}\n"
    expected = {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}, "c": {"k": 1, "l": 2}, "d": {"k": 4, "l": 2}}
    assert parse_yaml(text, where="x") == expected == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x, line 3: key 'a' is given twice (first on line 1); keep one of them"),
        ("t: {a: 1, 'a': 2}", "key 'a' is given twice"),
        ("- {a: {b: 1}}\n- a: 1\n  b: 2\n  b: 3", "x, line 4: key 'b' is given twice (first on line 3)"),
        ("<<: {a: 1}\n<<: {b: 1}", "key '<<' is given twice"),
        ("1: 2", "the key 1 is no text; write a name, in quotes"),
        ("t: {true: 2}", "the key true is no text"),
        ("~: 2", "the key ~ is no text"),
        ("? [a, b]\n: 1", "a key that is a list or a group is no text"),
        ("? {a: b}\n: 1", "a key that is a list or a group is no text"),
        ("a: !!timestamp 2020-13-45", "the tag '!!timestamp' is not read; write text or a number"),
        ("a: 2020-13-45", "'2020-13-45' looks like a date, and there is no such day; put it in quotes if it is a name"),
        ("a: [2021-02-29]", "'2021-02-29' looks like a date"),
        ("a: !!binary aGFsbG8=", "the tag '!!binary' is not read"),
        ("a: !!set {x}", "the tag '!!set' is not read"),
        ("a: !!python/object/apply:os.getcwd []", "the tag '!!python/object/apply:os.getcwd' is not read"),
        ("a: !own x", "the tag '!own' is not read"),
        ("a: !!int twelve", "'twelve' is not a whole number"),
        ("a: !!int 1.5", "'1.5' is not a whole number"),
        ("a: !!float fine", "'fine' is not a number"),
        ("a: !!bool perhaps", "'perhaps' is not true or false"),
        ("a: !!null x", "'x' is not null"),
        ("a: !!bool {a: 1}", "is not true or false"),
        ("a: !!map [1]", "expected a mapping node"),
        ("a: &a {b: *a}", "'*a' refers to itself; write it out"),
        ("&r [1, [*r]]", "'*r' refers to itself"),
        ("a: *b", "found undefined alias 'b'"),
        ("[" * 2000 + "]" * 2000, "more than 32 lists and groups are in each other; write fewer"),
        ("{a: " * 300 + "1" + "}" * 300, "more than 32 lists and groups"),
        ("a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}]\n" for k in range(1, 2000)), "more than 32 lists"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 29)), "100,000 values"),
        ("a: " + "9" * 5000, "9999999999… is a number of 5000 digits; write a smaller one"),
        ("<<: 1", "expected a mapping or list of mappings for merging"),
        ("a: [1\nb: 2", "x, line 2: it is not YAML ("),
        ("a: @b", "it is not YAML (while scanning for the next token: found character '@'"),
        ("a: b: c", "mend it, or quote the text"),
        ("a: 'b", "found unexpected end of stream"),
        ("--- 1\n--- 2", "expected a single document"),
        ("a\x00b", "it has a character that YAML cannot hold (U+0000, at position 1); delete it"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, where="x")
    assert message in str(error.value)
    assert str(error.value).startswith("x")
    assert "\n" not in str(error.value)


def test_merges_of_merges_stay_small() -> None:
    """Each line doubles what the one before it merges: 2 ** 200 keys, but for the same ones."""
    text = "a0: &a0 {k: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 200))
    assert parse_yaml(text, where="x")["a199"] == {"k": 1}


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udcffy"])
def test_texts_that_no_path_can_be_are_refused(text: str) -> None:
    for values in ({"out": text}, {"tiles": ["a", {"b": text}]}, {text: 1}):
        with pytest.raises(ConfigError, match="has a null byte|is not Unicode"):
            check_texts(values)


def test_what_is_dumped_is_read_back_here_and_by_yaml_1_1() -> None:
    """Drawn texts that look like other things, beside numbers."""
    draw = Random(0)
    for _ in range(2000):
        text = "".join(draw.choice("0123456789eE.:-+_ xonyY~<=*&#'\"{}[],ä\n") for _ in range(draw.randrange(6)))
        value = {"a": text, "b": [draw.uniform(-1, 1) * 10 ** draw.randrange(-20, 20), draw.randrange(10**9), None]}
        assert parse_yaml(dump_yaml(value), where="x") == value == yaml.safe_load(dump_yaml(value))


def test_a_value_that_stands_twice_is_written_twice() -> None:
    shared = [1, 2]
    assert "&" not in dump_yaml({"a": shared, "b": shared})
