"""Configs: precedence, strictness, and one-sentence errors."""

from __future__ import annotations

import copy
import importlib
import itertools
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from histogen.config import Settings, StageConfig, changed_keys, dump_config, load_config
from histogen.errors import ConfigError, MissingSettingError
from histogen.sentences import every_key


class Optim(Settings):
    lr: float = 0.1
    steps: int = 10
    pace: bool | Literal["slow"] = True
    scale: Literal["auto"] | tuple[float, Annotated[float, Field(gt=0)]] = "auto"


class Solver(Settings):
    steps: int = Field(default=20, ge=1)


class Toy(StageConfig):
    optim: Optim = Optim()
    solver: Solver | None = None
    solvers: list[Solver] = []
    tiles: list[Path] = []


def test_flags_win_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("seed: 1\noptim: {lr: 0.2, steps: 20}\nout: a\n")
    toy = load_config(Toy, file=file, overrides=["seed=2", "optim.lr=0.3"], flags={"seed": 3, "device": None})
    assert (toy.seed, toy.optim.lr, toy.optim.steps, toy.out, toy.device) == (3, 0.3, 20, Path("a"), "auto")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'optim.lr'"),
        (["lr=1"], "unknown key 'lr'; did you mean 'optim.lr'"),
        (["sed=1"], "unknown key 'sed'; did you mean 'seed'"),
        (["solver.stps=1"], "unknown key 'solver.stps'; did you mean 'solver.steps'"),
        (
            ["zzz=1"],
            "unknown key 'zzz'; known keys are device, optim, out, overwrite, resume, seed, solver, solvers, tiles",
        ),
        (["optim.steps=many"], "'optim.steps' cannot be 'many': give a whole number"),
        (["optim.steps=1.5"], "'optim.steps' cannot be 1.5: give a whole number"),
        (["optim.lr=.inf"], "'optim.lr' cannot be inf: give a finite number"),
        (["optim.pace=quick"], "'optim.pace' cannot be 'quick': give true or false or 'slow'"),
        (["optim.scale=[1, 0]"], "'optim.scale.1' cannot be 0: give more than 0"),
        (["optim.scale=[1]"], "'optim.scale' cannot be [1]: give 'auto' or more values"),
        (["optim.scale=[1, 2, 3]"], "'optim.scale' cannot be [1, 2, 3]: give 'auto' or 2 values at most"),
        (["optim.scale=wide"], "'optim.scale' cannot be 'wide': give 'auto' or a list"),
        (["optim=3"], "'optim' cannot be 3: give a group of keys"),
        (["solver.steps=-1"], "'solver.steps' cannot be -1: give 1 or more"),
        (["solver=fast"], "'solver' cannot be 'fast': give a group of keys"),
        (["solvers=[{steps: 3}, {steps: 0}]"], "'solvers.1.steps' cannot be 0: give 1 or more"),
        (["tiles=[a, 3]"], "'tiles.1' cannot be 3: give a path (a number as a name stands in quotes)"),
        (["tiles=a"], "'tiles' cannot be 'a': give a list"),
        (["out=2024"], "'out' cannot be 2024: give a path"),
        (["seed=on"], "'seed' cannot be 'on': give a whole number"),
        (["seed=true"], "'seed' cannot be true: give a whole number"),
        (["optim.lr=false"], "'optim.lr' cannot be false: give a number"),
        (["optim.scale=[1, true]"], "'optim.scale.1' cannot be true: give a number"),
        (["solvers=[{steps: true}]"], "'solvers.0.steps' cannot be true: give a whole number"),
        (["seed="], "'seed' cannot be null: give a whole number"),
        (["seed=!!int x"], "--set 'seed=!!int x': 'x' is not a whole number"),
        (['out="a\\0b"'], "'a\\0b' has a null byte"),
        (
            [f"tiles=[x, {'a' * 300}/b]"],
            "'tiles' has a name that no file can have, 'aaaaaaaaaaaaaaaaaaaa… (300 letters)'",
        ),
        ([f"{'a.' * 3000}b=1"], "has 3000 keys in each other"),
        (["tiles=" + "[" * 3000], "more than 32 lists and groups are in each other"),
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
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("word", ["on", "yes", "true", "off", "no", "false"])
def test_a_switch_is_thrown_by_any_of_its_words(word: str) -> None:
    assert load_config(Toy, overrides=["out=x", f"resume={word}"]).resume is (word in ("on", "yes", "true"))


def test_what_must_be_given_is_named_all_at_once(tmp_path: Path) -> None:
    class Needy(Toy):
        encoder: str
        eldm: Path

    with pytest.raises(
        MissingSettingError, match="'out' and 'eldm' are not given; add to the config, or pass:"
    ) as error:
        load_config(Needy, flags={"encoder": "e"})
    assert error.value.keys == ("out", "eldm")
    assert copy.copy(error.value).args == error.value.args  # as it comes back from another process
    with pytest.raises(
        ConfigError, match="unknown key 'eldn'; did you mean 'eldm'"
    ):  # what was meant for it goes first
        load_config(Needy, flags={"out": "x", "eldn": "e"})


def test_the_file_is_named_for_what_stands_in_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text("out: a\noptim: {lr: 0.1, steps: many}\n")
    for overrides, message in (
        ([], rf"^'optim.steps' cannot be 'many' in {file}: give "),
        (["optim.steps=few"], "^'optim.steps' cannot be 'few': "),
        (["optim.steps=1", "optim.lrr=2"], "^unknown key 'optim.lrr'; "),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(Toy, file=file, overrides=overrides)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[1, 2]", "holds [1, 2], not keys and values"),
        (b"12", "holds 12, not keys and values"),
        (b"a: [", "it is not YAML"),
        (b"seed: 1\nout: x\nseed: 2\n", "line 3: key 'seed' is given twice (first on line 1)"),
        (b"!!python/object/apply:os.getcwd []", "the tag"),
        (b"seed: \xff", "is not text in UTF-8 (invalid start byte); save it as such"),
        ("seed: 1".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_config_is_one_sentence(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        load_config(Toy, file=file)
    assert str(error.value).startswith(f"config '{file}'")
    assert message in str(error.value)


def test_a_folder_is_no_config_and_a_mark_of_utf_8_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\); give a YAML file"):
        load_config(Toy, file=tmp_path)
    (tmp_path / "marked.yaml").write_text("seed: 3\nout: ä\n", encoding="utf-8-sig")
    toy = load_config(Toy, file=tmp_path / "marked.yaml")
    assert (toy.seed, toy.out) == (3, Path("ä"))


CONFIGS = {
    "tile.config": "TileConfig", "pretrain.config": "PretrainConfig", "embed.config": "EmbedConfig",
    "train_autoencoder.config": "TrainAutoencoderConfig", "train_eldm.config": "TrainEldmConfig",
    "synthesize.config": "SynthesizeConfig", "benchmark.config": "BenchmarkConfig", "fidelity.config": "FidelityConfig",
    "import_images": "ImportImagesConfig", "import_features": "ImportFeaturesConfig", "export": "ExportConfig",
    "run.chain": "RunConfig",
}  # fmt: skip
ODD = ("x", "-1", "1e9", "0.5", "[]", "[x, -1]", "{zzz: 1}", "null", "true", ".nan", "[[1]]", "99999999999999999999")


def refused(cls: type[Settings], given: dict[str, object], override: str) -> str | None:
    """What is said of an override; None when it is taken."""
    try:
        load_config(cls, flags=given, overrides=[override])
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("module", CONFIGS)
def test_every_setting_of_every_command_is_refused_in_our_words(module: str) -> None:
    """Each odd value of each setting is taken, or refused by a sentence that names the setting"""
    cls = getattr(importlib.import_module(f"histogen.pipelines.{module}"), CONFIGS[module])
    needed = {
        "slides": ["s"], "tiles": ["t"], "encoder": "e", "encoders": ["e"], "eldm": "e", "autoencoder": "a", "out": "o",
        "held_out": ["h"], "synthetic": ["d"], "folder": "f", "features": "f", "name": "n", "format": "parquet",
    }  # fmt: skip
    given = {key: value for key, value in needed.items() if key in cls.model_fields}
    keys = [key for key in every_key(cls) if key.partition(".")[0] not in given]
    num_refused = 0
    for key, odd in itertools.product(keys, ODD):
        said = refused(cls, given, f"{key}={odd}")
        num_refused += said is not None
        parent, _, leaf = key.rpartition(".")
        # … or its group, or another key of its group
        assert said is None or leaf in said or f"{parent}:" in said or f"'{parent}." in said
        assert "something else" not in (said or "")
        assert "Error" not in (said or "")
    assert num_refused > len(keys)


def test_the_dump_builds_the_same_config() -> None:
    toy = Toy(out=Path("x"), optim=Optim(lr=0.5), tiles=[Path("a"), Path("b")])
    assert Toy.model_validate(yaml.safe_load(dump_config(toy))) == toy


def test_changes_are_named_and_unrecorded_keys_are_not_compared() -> None:
    old = Toy(out=Path("x"), resume=False).model_dump(mode="json")
    new = Toy(out=Path("y"), resume=True, optim=Optim(lr=0.5), seed=4).model_dump(mode="json")
    assert changed_keys(old, new) == ["optim.lr: 0.1 -> 0.5", "seed: 0 -> 4"]
