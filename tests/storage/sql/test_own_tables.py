"""Tables of one's own, in the forms that people have them."""

from __future__ import annotations

import json
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.sql.own_tables import read_own_table
from storage.sql.views import run_sql

HEADER = ("file_name", "Größe", "score")
ROWS = [("talk.mp4", 31, 1.5), ("bars.mp4", 40, 2.25)]
RECORDS = [dict(zip(HEADER, row, strict=True)) for row in ROWS]


def lines(joint: str, decimal: str = ".") -> str:
    return "\n".join(
        joint.join(str(cell).replace(".5", f"{decimal}5").replace(".25", f"{decimal}25") for cell in row)
        for row in (HEADER, *ROWS)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", lines(",").encode()),
        ("semicolons.csv", lines(";", ",").encode()),
        ("sep.csv", ("sep=|\n" + lines("|")).encode()),
        ("utf16.csv", lines(";", ",").encode("utf-16")),
        ("windows.csv", lines(";").encode("cp1252")),
        ("bom.CSV", b"\xef\xbb\xbf" + lines(",").encode()),
        ("spaces.csv", lines(",").replace("Größe", " Größe ").encode()),
        ("a.tsv", lines("\t").encode()),
        ("a.json", json.dumps(RECORDS).encode()),
        ("a.jsonl", "\n".join(map(json.dumps, RECORDS)).encode()),
    ],
)
def test_a_table_is_read_as_people_save_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_own_table(tmp_path / name).to_pylist() == RECORDS


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("second,rating\n0,5\n1,7\n", [{"second": 0, "rating": 5}, {"second": 1, "rating": 7}]),
        ("second\trating\n0\t0,5\n", [{"second": 0, "rating": 0.5}]),
        ('name,note\n"a, b","two\nlines"\n\n', [{"name": "a, b", "note": "two\nlines"}]),
        ('"Smith, J, Dr";score\nx;0,5\n', [{"Smith, J, Dr": "x", "score": 0.5}]),
        ("id,n\n1,2\n#3,4\n", [{"id": "1", "n": 2}, {"id": "#3", "n": 4}]),
        ('\nid,note\r\n1,"a\r\nb"\n\n   \n2,c\n', [{"id": 1, "note": "a\r\nb"}, {"id": 2, "note": "c"}]),
    ],
    ids=["whole numbers", "tabs", "quoted", "quoted header", "number sign", "blank lines and two line ends"],
)
def test_every_row_is_read_with_the_separator_of_the_header(
    tmp_path: Path, text: str, rows: list[dict[str, object]]
) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert read_own_table(tmp_path / "a.csv").to_pylist() == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,group\nv1.mp4,g1\nv2.mp4,g2, extra\n", "line 3 has 3 values, the header 2"),
        ("file_name,group,age\nv1.mp4,g1,20\nv2.mp4,g2\nv3.mp4,g1,30\n", "line 3 has 2 values, the header 3"),
        ("sep=;\nfile_name;group\nv1.mp4;g1\nv2.mp4\n", "line 4 has 1 value, the header 2"),
        ("file_name,group\nv1.mp4," + "g" * 200_000, "cannot be read as .csv"),
    ],
    ids=["long", "short", "below sep=", "a huge cell"],
)
def test_a_row_that_does_not_fit_is_refused_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(LakeError, match=message):
        read_own_table(tmp_path / "a.csv")


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["file_name", "score", "score"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(LakeError, match="two columns are called score"):
        read_own_table(tmp_path / "a.xlsx")


def test_columns_of_excel_without_a_name_get_one(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["file_name", None, None], ["a.mp4", 1, None]):
        book.active.append(row)
    book.active.cell(1, 3).font = openpyxl.styles.Font(bold=True)  # so that it is a cell of the sheet
    book.save(tmp_path / "a.xlsx")
    assert read_own_table(tmp_path / "a.xlsx").to_pylist() == [{"file_name": "a.mp4", "column1": 1, "column2": None}]


def test_parquet_and_excel_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    book = openpyxl.Workbook()
    for row in (HEADER, *ROWS):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert read_own_table(tmp_path / "a.parquet").to_pylist() == RECORDS
    assert read_own_table(tmp_path / "a.xlsx").to_pylist() == RECORDS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.csv", "cannot be read: No such file"),
        ("a.doc", "a table is one of"),
        ("broken.parquet", "cannot be read as .parquet"),
        ("broken.xlsx", "cannot be read as .xlsx"),
        ("broken.json", "cannot be read as .json"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, message: str) -> None:
    if "missing" not in name:
        (tmp_path / name).write_text("no { table")
    with pytest.raises(LakeError, match=message) as error:
        read_own_table(tmp_path / name)
    assert error.value.code == "own_table"


def test_its_name_is_one_word_that_the_lake_does_not_use(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    table = pa.table({"x": [1, 2]})
    assert run_sql(lake, "SELECT sum(x) AS n FROM Mine", tables={"mine": table}).to_pylist() == [{"n": 3}]
    for name, message in (
        ("scores", "taken by the lake"),
        ("Smoothed", "taken"),
        ("two words", "one word"),
        ("", "one word"),
    ):
        with pytest.raises(LakeError, match=message):
            run_sql(lake, "SELECT 1", tables={name: table})
