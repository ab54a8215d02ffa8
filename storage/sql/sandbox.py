"""Untrusted SQL in a sandbox: a process of its own with limits, killed on timeout."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from storage.delta.object_store import place_of
from storage.errors import LakeError
from storage.interpreter import python_command, python_environment
from storage.lake import Lake
from storage.sql.views import MAX_ROWS, MEMORY_MB, TIMEOUT_S, run_sql

__all__ = ["run_sql_sandboxed"]

#: Seconds beyond the time limit, for the process to start, to stop by itself and to write its answer.
_GRACE_S = 10.0
#: Threads and their memory pools take address space without using it.
_SPARE_MB = 2048
_REFUSED = 3


def run_sql_sandboxed(
    lake: Lake,
    query: str,
    *,
    model: str | None = None,
    tables: Mapping[str, pa.Table] | None = None,
    max_rows: int = MAX_ROWS,
    timeout_s: float = TIMEOUT_S,
    memory_mb: int = MEMORY_MB,
) -> pa.Table:
    """``storage.sql.views.run_sql`` with the same limits, kept by the operating system as well.

    Raises:
        LakeError: as ``run_sql`` does.
    """
    limits = {"max_rows": max_rows, "timeout_s": timeout_s, "memory_mb": memory_mb}
    with tempfile.TemporaryDirectory(prefix="mfer-") as folder, tempfile.TemporaryFile(prefix="mfer-") as answer:
        paths = {name: f"{folder}/{k}.arrow" for k, name in enumerate(tables or {})}
        for name, table in (tables or {}).items():
            with pa.ipc.new_file(paths[name], table.schema) as file:
                file.write_table(table)
        given = {"lake": str(lake.location), "query": query, "model": model, "tables": paths, "limits": limits}
        task = json.dumps(given)
        try:
            done = subprocess.run(
                python_command("-m", "storage.sql.sandbox"),
                input=task.encode("utf-8", "surrogatepass"),
                stdout=answer,
                stderr=subprocess.PIPE,
                env=python_environment(),
                timeout=timeout_s + _GRACE_S,
            )
        except subprocess.TimeoutExpired as error:
            message = f"the query took longer than {timeout_s:g} s and was killed; ask for less"
            raise LakeError(message, "sql_stopped") from error
        answer.seek(0)
        if done.returncode == _REFUSED:
            refusal = json.loads(answer.read())
            raise LakeError(refusal["message"], refusal["code"])
        if done.returncode:
            detail = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            message = (
                f"the query needs more than {memory_mb} MB, or crashed the engine, and was stopped"
                f" ({detail or f'exit {done.returncode}'}); ask for less, or allow more memory"
            )
            raise LakeError(message, "sql_stopped")
        return pa.ipc.open_stream(answer).read_all()


def _limit_memory(memory_mb: int) -> None:
    """Let an allocation beyond the limit fail, also in functions that count nothing."""
    try:
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc: DuckDB's own limit has to do
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = in_use + (memory_mb + _SPARE_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _serve() -> int:
    """Answer the one task on standard input with an Arrow stream, or a refusal as JSON, on standard output."""
    task = json.loads(sys.stdin.buffer.read())
    _limit_memory(task["limits"]["memory_mb"])
    tables = {name: pa.ipc.open_file(path).read_all() for name, path in task["tables"].items()}
    try:
        lake = Lake(place_of(task["lake"]))
        rows = run_sql(lake, task["query"], model=task["model"], tables=tables, **task["limits"])
    except LakeError as error:
        sys.stdout.write(json.dumps({"code": error.code, "message": str(error)}))
        return _REFUSED
    with pa.ipc.new_stream(sys.stdout.buffer, rows.schema) as stream:
        stream.write_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
