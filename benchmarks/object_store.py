"""What a lake in an object store costs beside one in a folder: commits, opening and queries, and requests for each.

``python -m benchmarks.object_store --json FILE`` runs moto's server on loopback: no network, one slow server written in
Python. A third lake is measured through a proxy that adds 30 ms to every request, about what a store in the same region
takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

from benchmarks.machine import machine
from storage.lake import Lake
from storage.sql.sandbox import run_sql_sandboxed
from storage.sql.views import connect
from tests.object_store import Fault, Proxy, environment, new_prefix, running_proxy, running_server
from tests.storage import lake_rows as rows

_N_VIDEOS = 20
_N_FRAMES = 7_500  # five minutes at 25 frames a second
_QUERIES = {
    "mean per second of one video": f"SELECT second, mean_p_happiness FROM seconds"
    f" WHERE video_id = '{rows.video_id(3)}' ORDER BY second",
    "top ten moments": "SELECT file_name, time_s FROM scores ORDER BY p_surprise DESC LIMIT 10",
    "share of time per expression": "SELECT expression, sum(duration_s) FROM scores GROUP BY ALL",
}


def _ask(con: duckdb.DuckDBPyConnection, query: str) -> list[Any]:
    return con.execute(query).fetchall()


def _ask_anew(lake: Lake, query: str) -> list[Any]:
    with connect(lake) as con:
        return _ask(con, query)


def _measure(lake: Lake, proxy: Proxy | None) -> dict[str, Any]:
    """Seconds, the median of some, and requests, of the last one."""
    found: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any], n: int) -> None:
        seconds = []
        for _ in range(n):
            if proxy:
                proxy.take_requests()
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        found[name] = {"seconds": round(median(seconds), 3)}
        if proxy:
            found[name]["requests"] = len(proxy.take_requests())

    numbers = iter(range(_N_VIDEOS))
    timed(
        "commit a video (four commits)",
        lambda: rows.add_video(lake, next(numbers), rows.face_rows(_N_FRAMES)),
        _N_VIDEOS,
    )
    timed("connect", lambda: connect(lake).close(), 5)
    for name, query in _QUERIES.items():
        timed(f"{name}, new connection", partial(_ask_anew, lake, query), 5)
        with connect(lake) as con:
            _ask(con, query)
            timed(f"{name}, again", partial(_ask, con, query), 5)
    timed("mfer sql", lambda: run_sql_sandboxed(lake, "SELECT count(*) FROM scores"), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_server() as port, running_proxy(port) as proxy:
        result = {"folder": _measure(Lake.open(Path(folder) / "lake", create=True), None)}
        os.environ.update(environment(port))
        result["moto"] = _measure(Lake.open(new_prefix(), create=True), None)
        os.environ.update(environment(proxy.port))
        proxy.set_fault(Fault("slow"))
        result["moto + 30 ms"] = _measure(Lake.open(new_prefix(), create=True), proxy)
    for name, figures in result["moto"].items():
        slow, there = result["moto + 30 ms"][name], result["folder"][name]["seconds"]
        seconds = f"folder {there:7.3f} s, moto {figures['seconds']:7.3f} s, with 30 ms {slow['seconds']:7.3f} s"
        print(f"{name:45} {seconds}, {slow['requests']} requests")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
