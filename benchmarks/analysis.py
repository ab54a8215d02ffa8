"""Time the table functions on 400,000 made-up faces: ten videos of eleven minutes with two faces each.

python benchmarks/analysis.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from storage.lake import Lake  # noqa: E402
from storage.sql.views import run_sql  # noqa: E402
from tests.storage import lake_rows as rows  # noqa: E402

QUERIES = (
    "SELECT avg(p_fear) FROM smoothed()",
    "SELECT count(*) FROM baselines()",
    "SELECT count(*) FROM expression_events()",
    "SELECT count(*) FROM synchrony()",
    "SELECT count(*) FROM expression_shares()",
    "SELECT count(*) FROM episodes",
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.open(Path(folder) / "lake", create=True)
        for number in range(10):
            rows.add_video(lake, number, rows.face_rows(20_000, n_faces=2, seed=number, fps=30))
        seconds = {}
        for query in QUERIES:
            started = time.perf_counter()
            run_sql(lake, query)
            seconds[query] = round(time.perf_counter() - started, 2)
    print(json.dumps({"faces": 400_000, "seconds": seconds}, indent=2))
