"""SQL that others wrote reads the lake's views and nothing else."""

from __future__ import annotations

from pathlib import Path

import lake_rows as rows
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.views import VIEWS, run_sql


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
    ],
)
def test_questions_are_answered(lake: Lake, query: str) -> None:
    assert len(run_sql(lake, query)) > 0


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


def test_a_query_without_end_is_stopped(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"longer than 0\.2 s") as error:
        run_sql(lake, "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b", timeout_s=0.2)
    assert error.value.code == "sql_stopped"


def test_a_lake_beside_another_is_out_of_reach(lake: Lake, tmp_path: Path) -> None:
    other = Lake.open(tmp_path / "other", create=True)
    with pytest.raises(LakeError) as error:
        run_sql(other, f"SELECT * FROM read_text('{str(lake.location / 'lake.json').replace(chr(39), chr(39) * 2)}')")
    assert error.value.code == "wrong_sql"
