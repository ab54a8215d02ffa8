"""SQL that others wrote reads the lake's views and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.sql import sandbox
from storage.sql.sandbox import run_sql_sandboxed
from storage.sql.views import VIEWS, run_sql
from tests.storage import lake_rows as rows
from tests.strangers import write_strangers


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake.open(tmp_path_factory.mktemp("sql") / "it's a lake", create=True)
    rows.add_video(lake, 1)
    return lake


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM scores;",
        "-- a comment\nWITH s AS (SELECT * FROM scores) SELECT count(*) FROM s",
        "FROM videos",
        "DESCRIBE scores",
        "SHOW TABLES",
        "SUMMARIZE tracks",
        "EXPLAIN SELECT * FROM scores",
        "explain analyze select * from scores",
        "EXPLAIN (FORMAT json) SELECT 1",
        "/* a comment */ EXPLAIN SELECT 1",
        "PIVOT scores ON expression USING count(*) GROUP BY file_name",
        "-- a comment\nWITH p AS (PIVOT scores ON expression USING count(*)) FROM p",
        "EXPLAIN PIVOT scores ON expression USING count(*)",
        "UNPIVOT (SELECT file_name, p_fear, p_anger FROM scores) ON p_fear, p_anger",
    ],
)
def test_questions_are_answered(lake: Lake, query: str) -> None:
    assert len(run_sql(lake, query)) > 0


def test_values_that_arrow_does_not_know_arrive_as_text(lake: Lake) -> None:
    query = """SELECT '10:00:00+02'::TIMETZ AS t, '101'::BIT AS "a ""b", 7::BIGNUM AS t, [3] AS l, n FROM range(3) x(n)
        ORDER BY n DESC"""
    for max_rows in (10, None):
        answer = run_sql(lake, query, max_rows=max_rows)
        assert answer.column_names == ["t", 'a "b', "t", "l", "n"]
        assert [column.to_pylist() for column in answer.columns] == [
            ["10:00:00+02"] * 3, ["101"] * 3, ["7"] * 3, [[3]] * 3, [2, 1, 0]
        ]  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW scores",
        "COPY (SELECT 1) TO '{outside}'",
        "COPY (SELECT 1) TO '{inside}/x.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{inside}/x.csv'",
        "EXPLAIN /* x */ ANALYZE COPY (SELECT 1) TO '{inside}/x.csv'",
        "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{inside}/x.csv'",
        "explain analyze create table t as select 1",
        "WITH x AS (SELECT 1) INSERT INTO scores SELECT * FROM x",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW scores",
        "ATTACH '{outside}' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM read_csv('{outside}')",
        "SELECT * FROM glob('{parent}/*')",
        "SELECT * FROM read_text('{inside}/../secret.csv')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{outside}''')",
        "SELECT * FROM '{parent}/*.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM sniff_csv('{outside}')",
        "SELECT * FROM parquet_metadata('{outside}')",
        "SELECT * FROM read_duckdb('{outside}')",
        "SELECT * FROM read_text('file://{outside}')",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{inside}/log')",
        "SELECT * FROM enable_profiling(format = 'json', save_location = '{inside}/profile.json')",
        "SELECT * FROM query('SET lock_configuration = false')",
        "SELECT * FROM json_execute_serialized_sql('{{}}')",
        "SELECT getenv('HOME')",
        "EXPORT DATABASE '{inside}/all'",
        "IMPORT DATABASE '{inside}'",
        "USE memory",
        "VACUUM",
        "CHECKPOINT",
        "CREATE MACRO f() AS 1",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "BEGIN",
        "UPDATE raw.labels SET note = ''",
        "DELETE FROM raw.labels",
        "CREATE SECRET s (TYPE s3)",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT * FROM secret_rows",
        "SELECT nothing FROM scores",
        "SELECT * FROM nowhere",
        "SELEKT 1",
    ],
)
def test_everything_else_is_refused(lake: Lake, query: str) -> None:
    outside = lake.location.parent / "secret.csv"
    outside.write_text("a,b\n1,2\n")
    secret_rows = outside.read_text()  # a Python variable is no table
    before = sorted(lake.location.rglob("*"))
    inside = str(lake.location).replace("'", "''")
    query = query.format(outside=str(outside).replace("'", "''"), inside=inside, parent=outside.parent)
    with pytest.raises(LakeError) as error:
        run_sql(lake, query)
    assert error.value.code == "wrong_sql"
    assert all(name in str(error.value) for name in VIEWS)
    assert sorted(lake.location.rglob("*")) == before
    assert outside.read_text() == secret_rows


ENDLESS = [
    "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b",
    "SELECT count(*) FROM scores a, scores b, scores c, scores d, scores e, scores f, scores g, scores h, scores i",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT sleep_ms(60000)",
]


@pytest.mark.parametrize("query", ENDLESS)
def test_a_query_without_end_is_stopped(lake: Lake, query: str) -> None:
    with pytest.raises(LakeError, match=r"longer than 0\.2 s") as error:
        run_sql(lake, query, timeout_s=0.2)
    assert error.value.code == "sql_stopped"


def test_a_query_that_needs_too_much_memory_is_stopped(lake: Lake) -> None:
    with pytest.raises(LakeError, match="more than 100 MB") as error:
        run_sql(lake, "SELECT list(range) FROM range(100000000)", memory_mb=100)
    assert error.value.code == "sql_stopped"


@pytest.mark.parametrize("ask", [run_sql, run_sql_sandboxed])
def test_an_answer_that_is_too_long_is_refused_and_not_cut(lake: Lake, ask: Callable[..., pa.Table]) -> None:
    assert len(ask(lake, "SELECT * FROM range(1000)", max_rows=1000)) == 1000
    with pytest.raises(LakeError, match="more than 1000 rows") as error:
        ask(lake, "SELECT * FROM range(1001)", max_rows=1000)
    assert error.value.code == "sql_stopped"


def test_a_query_in_the_sandbox_gives_the_same_answer_and_the_same_refusals(lake: Lake) -> None:
    query = "SELECT *, 'é' AS text FROM scores ORDER BY ALL"
    assert run_sql_sandboxed(lake, query).equals(run_sql(lake, query))
    with pytest.raises(LakeError, match="Views: scores") as error:
        run_sql_sandboxed(lake, "DROP VIEW scores")
    assert error.value.code == "wrong_sql"


@pytest.mark.full
def test_a_function_that_hears_nothing_is_killed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_GRACE_S", 2.0)
    with pytest.raises(LakeError, match="was killed") as error:
        run_sql_sandboxed(lake, "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))", timeout_s=0.5)
    assert error.value.code == "sql_stopped"


def test_a_function_that_counts_no_memory_is_stopped_by_the_system(lake: Lake) -> None:
    with pytest.raises(LakeError, match="more than 100 MB") as error:
        run_sql_sandboxed(lake, "SELECT length(repeat('x', 4000000000))", memory_mb=100)
    assert error.value.code == "sql_stopped"


def test_a_lake_beside_another_is_out_of_reach(lake: Lake, tmp_path: Path) -> None:
    other = Lake.open(tmp_path / "other", create=True)
    with pytest.raises(LakeError) as error:
        run_sql(other, f"SELECT * FROM read_text('{str(lake.location / 'lake.json').replace(chr(39), chr(39) * 2)}')")
    assert error.value.code == "wrong_sql"


@pytest.mark.parametrize("python_path", ["", ".", f".{os.pathsep}"])
def test_a_question_runs_nothing_that_lies_in_the_working_folder(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python_path: str
) -> None:
    monkeypatch.chdir(write_strangers(tmp_path))
    monkeypatch.setenv("PYTHONPATH", python_path)
    assert run_sql_sandboxed(lake, "SELECT count(*) AS n FROM videos").to_pylist() == [{"n": 1}]
