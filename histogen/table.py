"""CSV tables that users write: manifests, splits of images, labels of slides. Each column and each value is clear."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from histogen.errors import ManifestError
from histogen.names import too_long_part

OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class Row(NamedTuple):
    """One row: the line of the file on which it ends, and its values by column, without blanks around them."""

    line: int
    values: dict[str, str]


def read_table(file: Path, *, what: str, needs: Sequence[str], known: Collection[str] = ()) -> list[Row]:
    """Return the rows of a CSV file; ``what`` it is begins every sentence about the whole of it.

    Other columns than the needed and the ``known`` ones are kept, unless a name is one of these but for case or blanks.

    Raises:
        ManifestError: it cannot be read, a needed column or every row is missing, a column occurs twice or has no name,
            a row has more or fewer values than there are columns, or a value holds what no name and no path can.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True, skipinitialspace=True)
            names = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError as error:
        raise ManifestError(f"{what} '{file}' does not exist; check the path") from error
    except OSError as error:
        raise ManifestError(f"{what} '{file}' cannot be read ({error.strerror}); give a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{what} '{file}' is not a CSV file ({error}); save it as one, in UTF-8") from error
    _check_columns(file, what, names, needs, {*needs, *known})
    if not rows:
        raise ManifestError(f"{what} '{file}' lists nothing; add a row")
    return [Row(line, _checked(file, line, names, cells, {*needs, *known})) for line, cells in rows]


def path_of(file: Path, row: Row, column: str) -> Path:
    """Return the path in a column; relative ones are relative to the table, ``~`` is a home.

    Raises:
        ManifestError: the home is nobody's.
    """
    text = row.values[column]
    if part := too_long_part(Path(text)):
        raise ManifestError(f"{file}:{row.line}: {column} has a name that no file can have, '{part}'; mend it")
    try:
        return file.parent / Path(text).expanduser()
    except RuntimeError as error:
        home = text.partition("/")[0]
        raise ManifestError(
            f"{file}:{row.line}: {column} '{text}' begins with '{home}', which is nobody's home; write the whole path"
        ) from error


def check_spelling(file: Path, column: str, rows: Sequence[Row]) -> None:
    """Refuse values of a column that differ in case alone: one would be left out without a word.

    Raises:
        ManifestError: two do; both are named, with their lines.
    """
    first: dict[str, tuple[str, int]] = {}
    for line, values in rows:
        text = values.get(column, "")
        known, known_line = first.setdefault(text.casefold(), (text, line))
        if known != text:
            raise ManifestError(
                f"{file}:{line}: {column} '{text}' is '{known}' on line {known_line}; write both in one way"
            )


def _check_columns(file: Path, what: str, names: list[str], needs: Sequence[str], known: set[str]) -> None:
    missing = [name for name in needs if name not in names]
    for sign, plural in OTHER_DELIMITERS.items():
        if missing and len(names) == 1 and sign in names[0]:
            raise ManifestError(f"{what} '{file}' has {plural} between its columns; save it with commas")
    misspelt = {name: _plain(name) for name in names if name not in known and _plain(name) in known}
    for name, meant in misspelt.items():
        raise ManifestError(f"{what} '{file}' has a column '{name}', which is not '{meant}'; rename it")
    if missing:
        has = ", ".join(name or "one without a name" for name in names) or "none"
        columns = f"column{'s' if len(missing) > 1 else ''} {' and '.join(repr(name) for name in missing)}"
        raise ManifestError(
            f"{what} '{file}' has no {columns} (it has {has}); add a first row with the names of columns"
        )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ManifestError(f"{what} '{file}' has column '{twice}' twice; delete or rename one")
    if "" in names:
        raise ManifestError(
            f"{what} '{file}' has a column without a name, the {names.index('') + 1}. of {len(names)} (an index that a "
            "program wrote?); name it or delete it"
        )


def _plain(name: str) -> str:
    return "_".join(name.casefold().replace("-", " ").replace("_", " ").split())


def _checked(file: Path, line: int, names: list[str], cells: list[str], known: set[str]) -> dict[str, str]:
    if len(cells) != len(names):
        raise ManifestError(
            f"{file}:{line}: the row has {len(cells)} values for {len(names)} columns; mend it (a value with a comma "
            "stands in quotes)"
        )
    values = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    for name, value in values.items():
        odd = [sign for sign in value if unicodedata.category(sign) == "Cc"] if name in known else []
        if odd:
            raise ManifestError(
                f"{file}:{line}: {name} {value!r:.60} has a control character ({odd[0]!r}); delete it, or close the "
                "quote before it"
            )
    return values
