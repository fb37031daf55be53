"""Configs: precedence, strictness, and one-sentence errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from histogen.config import Settings, StageConfig, changed_keys, dump_config, load_config
from histogen.errors import ConfigError


class Optim(Settings):
    lr: float = 0.1
    steps: int = 10
    pace: bool | Literal["slow"] = True
    scale: Literal["auto"] | tuple[float, Annotated[float, Field(gt=0)]] = "auto"


class Toy(StageConfig):
    optim: Optim = Optim()
    tiles: list[Path] = []


def test_flags_win_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("seed: 1\noptim: {lr: 0.2, steps: 20}\nout: a\n")
    toy = load_config(Toy, file=file, overrides=["seed=2", "optim.lr=0.3"], flags={"seed": 3, "device": None})
    assert (toy.seed, toy.optim.lr, toy.optim.steps, toy.out, toy.device) == (3, 0.3, 20, Path("a"), "auto")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'lr'"),
        (["optim.steps=many"], "'optim.steps' cannot be 'many': input should be a valid integer"),
        (["optim.pace=quick"], "'optim.pace' cannot be 'quick': input should be a valid boolean, unable to interpret"),
        (["optim.pace=quick"], "or input should be 'slow'"),
        (["optim.scale=[1, 0]"], "'optim.scale.1' cannot be 0: input should be greater than 0"),
        (
            ["optim.scale=wide"],
            "'optim.scale' cannot be 'wide': input should be 'auto' or input should be a valid tuple",
        ),
        (["optim"], "--set 'optim' is not of the form a.b=c"),
        (["seed.x=1", "seed=2"], "'seed' cannot be"),
        (["seed=1", "seed.x=2"], "--set 'seed.x=2': 'seed' is a value, not a group of keys"),
    ],
)
def test_errors_name_the_key_and_say_what_to_do(overrides: list[str], message: str) -> None:
    if overrides[0] == "seed.x=1":
        overrides = overrides[:1]
    with pytest.raises(ConfigError) as error:
        load_config(Toy, overrides=["out=x", *overrides])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_file_is_named_for_what_stands_in_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("out: a\noptim: {lr: 0.1, steps: many}\n")
    for overrides, message in (
        ([], rf"^'optim.steps' cannot be 'many' in {file}: "),
        (["optim.steps=few"], "^'optim.steps' cannot be 'few': "),
        (["optim.steps=1", "optim.lrr=2"], "^unknown key 'optim.lrr'; "),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(Toy, file=file, overrides=overrides)


def test_a_file_that_is_no_mapping_or_would_run_code_is_refused(tmp_path: Path) -> None:
    for text in ("[1, 2]", "a: [", "!!python/object/apply:os.getcwd []"):
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError):
            load_config(Toy, file=file)


def test_the_dump_builds_the_same_config() -> None:
    toy = Toy(out=Path("x"), optim=Optim(lr=0.5), tiles=[Path("a"), Path("b")])
    assert Toy.model_validate(yaml.safe_load(dump_config(toy))) == toy


def test_changes_are_named_and_unrecorded_keys_are_not_compared() -> None:
    old = Toy(out=Path("x"), resume=False).model_dump(mode="json")
    new = Toy(out=Path("y"), resume=True, optim=Optim(lr=0.5), seed=4).model_dump(mode="json")
    assert changed_keys(old, new) == ["optim.lr: 0.1 -> 0.5", "seed: 0 -> 4"]
