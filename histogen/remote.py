"""Paths on object storage, ``s3://bucket/key``, and what a file descriptor does elsewhere.

Such a path is a ``UPath`` over fsspec, as zarr uses it, and is used like any other ``Path``. Credentials come from the
environment or the files of AWS alone; none is ever in a path, so none is recorded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histogen.errors import ConfigError, first_line

SCHEME = re.compile(r"^s3:/+")
"""With one slash too: what ``Path`` leaves of an address."""
REQUESTS_AT_A_TIME = 32


def as_path(path: Path | str) -> Path:
    """Return ``path`` as a path on object storage where it is one, else as a local one.

    Raises:
        ConfigError: it carries credentials, or names no bucket.
    """
    if is_remote(path) or not SCHEME.match(str(path)):
        return path if isinstance(path, Path) else Path(path)
    key = SCHEME.sub("", str(path)).rstrip("/")
    bucket = key.partition("/")[0]
    if "@" in bucket or "?" in key:
        raise ConfigError("credentials belong in the environment (AWS_ACCESS_KEY_ID …), not in an address of a bucket")
    if not bucket:
        raise ConfigError(f"'{path}' names no bucket; write s3://BUCKET/KEY")
    from upath import UPath

    # a listing is of now: others write there too
    found: Path = UPath(f"s3://{key}", use_listings_cache=False)
    return found


def is_remote(path: Path | str) -> bool:
    """Whether ``path`` is one on object storage, made by :func:`as_path`."""
    return bool(getattr(path, "protocol", ""))


def check_reachable(path: Path) -> None:
    """See that the bucket of ``path`` answers, and may be listed under it.

    Raises:
        ConfigError: it does not.
    """
    bucket, _, key = _place(path).partition("/")
    try:
        _fs(path).call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no bucket 's3://{bucket}'; check its name, or make it") from error
    except Exception as error:  # noqa: BLE001 - whatever the client of the storage raises
        raise ConfigError(
            f"'{path}' cannot be reached ({first_line(error)}); check its bucket, the credentials in the environment, "
            "and AWS_ENDPOINT_URL"
        ) from error


def read_end(path: Path, length: int) -> bytes:
    """Return the last bytes of a file, at least one."""
    data: bytes = _fs(path).cat_file(_place(path), start=-length)
    return data


def read_ranges(path: Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes [start, stop) of each of ``ranges``, at the same time.

    Raises:
        OSError: one cannot be read.
    """
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    found = _fs(path).cat_ranges(
        [_place(path)] * len(ranges), starts, stops, batch_size=REQUESTS_AT_A_TIME, on_error="raise"
    )
    return list(found)


def read_files(paths: Sequence[Path]) -> list[bytes]:
    """Return the bytes of files of one bucket, read at the same time.

    Raises:
        OSError: one cannot be read.
    """
    if not paths:
        return []
    found = _fs(paths[0]).cat([_place(path) for path in paths], batch_size=REQUESTS_AT_A_TIME, on_error="raise")
    return [found[_place(path)] for path in paths] if isinstance(found, dict) else [found]


def write_new(path: Path, data: bytes) -> bool:
    """Write ``path`` unless it is there, in one step; return whether it was written."""
    try:
        _fs(path).pipe_file(_place(path), data, mode="create")
    except FileExistsError:
        return False
    return True


def write(path: Path, data: bytes) -> None:
    """Write ``path``, whole or not at all, as object storage does."""
    _fs(path).pipe_file(_place(path), data)


def remove_tree(path: Path) -> None:
    """Delete a folder, here or there, with all that is in it; harmless when it is not there."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        _fs(path).rm(_place(path), recursive=True)


def identity(path: Path) -> tuple[Any, ...]:
    """Return what tells the file at ``path`` from another one that is put there.

    Raises:
        FileNotFoundError: there is none.
    """
    about = _fs(path).info(_place(path))
    return about.get("ETag"), about["size"]


def _fs(path: Path) -> Any:
    return path.fs  # type: ignore[attr-defined]


def _place(path: Path) -> str:
    return str(path.path)  # type: ignore[attr-defined]
