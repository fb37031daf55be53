"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from histogen import remote
from histogen.errors import ConfigError
from histogen.remote import is_remote

TEMPORARY = ".tmp."
DISK_ERRORS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make its disk writable",
    errno.EIO: "see to its disk",
    errno.ESTALE: "mount its disk again",
}


def disk_sentence(error: OSError) -> str | None:
    """Return what has failed and what to do where it is a disk; None for any other error, which is a fault of ours."""
    remedy = DISK_ERRORS.get(error.errno or 0)
    return remedy and f"a disk has failed ({error}); {remedy}, and run the same command with --resume"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name ``path``: a write does not know where it goes."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees all of it or what was there before, after a power cut too.

    Raises:
        OSError: it cannot be written; the error names ``path``, and what was there before is still there.
    """
    content = data.encode() if isinstance(data, str) else data
    if is_remote(path):
        remote.write(path, content)
        return
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_files(files: Iterable[tuple[Path, bytes]]) -> None:
    """Write each (path, data) as :func:`write_atomic` does; their folders are synchronised once, at the end.

    Raises:
        OSError: as :func:`write_atomic`.
    """
    folders = set()
    for path, data in files:
        if is_remote(path):
            write_atomic(path, data)
            continue
        with whole_file(path, synchronise_name=False) as temporary:
            temporary.write_bytes(data)
        folders.add(path.parent)
    for folder in sorted(folders):
        with naming(folder):
            _synchronise(folder)


@contextmanager
def whole_file(path: Path, *, synchronise_name: bool = True) -> Iterator[Path]:
    """Give a temporary name with the suffix of ``path``; what the block writes there becomes ``path`` if it ends well.

    The data are synchronised, then renamed, then the folder is synchronised (unless the caller does it, for many files
    at once); missing folders are made. An OSError of the temporary file names ``path``.
    """
    temporary = path.with_name(f"{path.stem}{TEMPORARY}{uuid.uuid4().hex}{path.suffix}")
    try:
        _make_folder(path.parent)
        yield temporary
        _synchronise(temporary)
        temporary.replace(path)
        if synchronise_name:
            _synchronise(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # on a file system that is full or read-only too; the next run removes it
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _synchronise(folder.parent)


def _synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # no folder can be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # some file systems know no such thing
            raise
    finally:
        os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether ``path`` is what :func:`write_atomic` leaves when it is killed."""
    return TEMPORARY in path.name


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left under ``folder``; nobody may be writing there."""
    if is_remote(folder):  # nothing there has another name before it is whole
        return
    for path in folder.rglob(f"*{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a file of JSON that histogen, or a library, has left beside an output.

    Raises:
        ConfigError: it cannot be read, is not JSON, or holds no mapping.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error.strerror}); restore it, or make its folder again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'{path}' is not JSON ({error}); restore it, or make its folder again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' holds no names and values; restore it, or make its folder again")
    return content
