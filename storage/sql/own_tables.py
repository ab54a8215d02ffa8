"""A person's own table beside the lake's views: a file of participants, conditions or ratings to join with."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from zipfile import BadZipFile

import duckdb
import pyarrow as pa

from storage.delta.relations import memory_connection, quote, rows_of
from storage.errors import LakeError
from storage.wording import counted

__all__ = ["READERS", "decoded", "read_own_table", "text_of_csv"]

#: Python's csv says what the cells of a file are, and DuckDB of what type: its sniffer would leave out rows that do not
#: fit, and those that begin with #.
_CSV = (
    "read_csv({}, header = true, skip = 0, sample_size = -1, delim = ',', quote = '\"', escape = '\"', comment = ''"
    ", new_line = '\\n'{})"
)
#: How DuckDB reads a file, by how its name ends.
READERS = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".txt": _CSV,
    ".parquet": "read_parquet({})",
    ".json": "read_json({})",
    ".jsonl": "read_json({}, format = 'newline_delimited')",
    ".ndjson": "read_json({}, format = 'newline_delimited')",
    ".xlsx": "",
}
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
#: What Excel writes first where the separator is not the one of the reader's country.
_SEPARATOR_LINE = re.compile(r'\A"?sep=(.)"?\r?\n', re.IGNORECASE)
_SEPARATORS = (",", ";", "\t", "|")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


def read_own_table(path: str | Path) -> pa.Table:
    """Read a table from CSV (any usual separator, encoding and decimal mark), TSV, JSON, JSON lines, Parquet or Excel.

    Column names lose the spaces around them; types are found by looking at all rows.

    Raises:
        LakeError: ``own_table``: the file is missing, of another kind, or cannot be read as what its name says.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in READERS:
        raise LakeError(f"{path}: a table is one of {', '.join(READERS)}; save it as one of these", "own_table")
    try:
        if kind == ".xlsx":
            return _read_excel(path)
        if READERS[kind] is _CSV:
            return _read_csv(path)
        return _read(path, READERS[kind].format(quote(str(path.absolute()))))
    except OSError as error:
        raise LakeError(f"{path} cannot be read: {error.strerror or error}", "own_table") from error
    except (duckdb.Error, csv.Error) as error:
        raise LakeError(f"{path} cannot be read as {kind}: {str(error).splitlines()[0]}", "own_table") from error


def _read(path: Path, reader: str) -> pa.Table:
    path.stat()  # a missing file is an OSError
    con = memory_connection()
    con.execute("SET TimeZone = 'UTC'")
    rows = rows_of(con, f"FROM {reader}")
    return rows.rename_columns([str(name).strip() for name in rows.column_names])


def _read_csv(path: Path) -> pa.Table:
    text, stated = text_of_csv(path)
    n_above = decoded(path.read_bytes()).count("\n") - text.count("\n")  # the line sep=
    # that of the header: the one that fits most rows may be a decimal comma
    separator = stated or max(_SEPARATORS, key=lambda sign: len(next(_cells(text, sign), (0, []))[1]))
    rows = _cells(text, separator)
    _, header = next(rows, (0, []))
    has_decimal_comma = False
    with NamedTemporaryFile("w", suffix=".csv", encoding="utf-8", newline="") as plain:
        writer = csv.writer(plain, lineterminator="\n")
        writer.writerow(header)
        for line, row in rows:
            if len(row) != len(header):
                raise LakeError(
                    f"{path}: line {n_above + line} has {counted(len(row), 'value')}, the header {len(header)},"
                    f" separated by {separator!r}; a value with that sign in it goes in double quotes",
                    "own_table",
                )
            has_decimal_comma |= any(_DECIMAL_COMMA.fullmatch(value.strip()) for value in row)
            writer.writerow(row)
        plain.flush()
        decimals = ", decimal_separator = ','" if has_decimal_comma and separator != "," else ""
        return _read(Path(plain.name), _CSV.format(quote(plain.name), decimals))


def _cells(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, each with the number of the line that it ends in."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    yield from ((rows.line_num, row) for row in rows if len(row) > 1 or "".join(row).strip())


def text_of_csv(path: Path) -> tuple[str, str | None]:
    """The text of a CSV or TSV file without a line ``sep=``, and the separator that this line or the name states."""
    text = decoded(path.read_bytes())
    if (line := _SEPARATOR_LINE.match(text)) is not None:
        return text[line.end() :], line[1]
    return text, "\t" if path.suffix.lower() == ".tsv" else None


def decoded(data: bytes) -> str:
    """Text in the encoding that its first bytes state, else UTF-8, else what Windows writes in western Europe."""
    for bom, encoding in _BOMS.items():
        if data.startswith(bom):
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _read_excel(path: Path) -> pa.Table:
    try:
        import openpyxl
    except ImportError:
        message = f"{path}: reading Excel needs openpyxl; pip install 'mfer[notebook]', or save the sheet as CSV"
        raise LakeError(message, "own_table") from None
    with path.open("rb") as file:
        try:
            sheet = openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets[0]
            header, *rows = list(sheet.iter_rows(values_only=True))
        except (ValueError, KeyError, BadZipFile, openpyxl.utils.exceptions.InvalidFileException) as error:
            raise LakeError(f"{path} cannot be read as .xlsx: {error}", "own_table") from error
    names = [f"column{k}" if name is None else str(name).strip() for k, name in enumerate(header)]  # as of a CSV
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LakeError(f"{path}: two columns are called {', '.join(twice)}; give each its own name", "own_table")
    columns = {}
    for k, name in enumerate(names):
        values = [row[k] for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of numbers and words
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    return pa.table(columns)
