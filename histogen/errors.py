"""Every deliberate error of histogen.

::

    HistogenError
    ├── ConfigError (ValueError)              a flag, a YAML key or a value cannot be used
    │   └── MissingSettingError               a setting that has no default is given nowhere
    ├── ManifestError (ValueError)            a row of a manifest cannot be used
    ├── OutputExistsError (FileExistsError)   the output is there and neither --resume nor --overwrite was given
    ├── OutputInUseError (RuntimeError)       another process is writing the output
    ├── SlideError (ValueError)               a slide cannot be opened or read
    │   ├── MissingMppError                   its resolution is not stated anywhere
    │   └── RefusedSlideError                 it cannot be shown rightly, by any reader
    │       └── TruncatedSlideError           its file ends before its pixels do
    ├── StoreError (ValueError)               a tile store is malformed or does not fit
    │   └── IncompleteStoreError              some of its shards are not there yet
    ├── EncoderError (ValueError)             an encoder or its weights cannot be used
    │   └── WeightsError (also ConfigError)   a file of weights cannot be read
    ├── CheckpointError (ValueError)          no checkpoint verifies, or it belongs to another run
    ├── TrainingStoppedError (RuntimeError)   training ended itself (non-finite loss, collapse)
    ├── ComputeError (RuntimeError)           the workers of a bulk stage cannot be started
    └── MissingDependencyError (ImportError)  an optional package is not installed

A message is one sentence: what is wrong with its value, where, then what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class HistogenError(Exception):
    """Base of every deliberate error; ``exit_code`` is what the command line exits with."""

    exit_code = 2


class ConfigError(HistogenError, ValueError):
    """A flag, a key of a YAML file or a value cannot be used."""


class MissingSettingError(ConfigError):
    """Settings without a default, ``keys``, are given nowhere; ``file`` is the config that was read, if any."""

    def __init__(self, keys: Sequence[str], file: Path | None = None) -> None:
        self.keys, self.file = tuple(keys), file
        named = " and ".join(f"'{key}'" for key in keys)
        ways = " ".join(f"--set {key}=…" for key in keys)
        super().__init__(f"{named} {'is' if len(keys) == 1 else 'are'} not given; add to the config, or pass: {ways}")

    def __reduce__(self) -> tuple[type[MissingSettingError], tuple[tuple[str, ...], Path | None]]:
        """Pickle what it was made of, not its sentence."""
        return type(self), (self.keys, self.file)


class ManifestError(HistogenError, ValueError):
    """A row of a manifest cannot be used."""


class OutputExistsError(HistogenError, FileExistsError):
    """The output exists and neither resume nor overwrite was asked for; it was left untouched."""


class OutputInUseError(HistogenError, RuntimeError):
    """Another process is writing the output; it was left untouched."""


class SlideError(HistogenError, ValueError):
    """A slide cannot be opened or read."""


class MissingMppError(SlideError):
    """The resolution (microns per pixel) of a slide is not stated anywhere."""


class RefusedSlideError(SlideError):
    """What a slide holds cannot be shown rightly, so that no other reader is tried."""


class TruncatedSlideError(RefusedSlideError):
    """The file of a slide ends before its pixels do."""


class StoreError(HistogenError, ValueError):
    """A tile store is malformed or does not fit its use."""


class IncompleteStoreError(StoreError):
    """Some shards of a tile store are not there yet."""


class EncoderError(HistogenError, ValueError):
    """An encoder or its weights cannot be used."""


class WeightsError(EncoderError, ConfigError):
    """A file of weights, of an encoder or of another network, cannot be read."""


class CheckpointError(HistogenError, ValueError):
    """No checkpoint verifies, or it belongs to another run."""


class TrainingStoppedError(HistogenError, RuntimeError):
    """Training ended itself: the loss is not finite, or the encoder has collapsed."""

    exit_code = 1


class ComputeError(HistogenError, RuntimeError):
    """The workers of a bulk stage cannot be started, or the processes of a training not joined."""

    exit_code = 1


class MissingDependencyError(HistogenError, ImportError):
    """An optional package is not installed."""


def first_line(error: BaseException) -> str:
    """Return what another library's error says first, for a sentence of ours; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
