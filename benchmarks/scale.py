"""Five questions over a lake of a thousand videos: `python -m benchmarks.scale --rows 10000000 [--json FILE]`.

Makes a synthetic lake through the lake's own commits, in batches as a folder run writes them: faces that drift and
jitter, one or two to a frame, some frames without, in eight folders and over a year. Then it is compacted, and each
question is asked in a process of its own (``cold``: connect, plan and answer) and again (``warm``), on as many threads
as `--threads` says. Seconds are wall time, ``cpu`` what all threads together took; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import add_result, machine
from storage.delta.tables import data_files
from storage.lake import Lake, Segment
from storage.records import RunManifest, VideoOutcome
from storage.sql.views import connect
from tests.storage.lake_rows import ANALYSIS_A, MODEL_A, face_rows, finished

_FPS = 25
_ROWS_PER_COMMIT = 2_500_000
_FOLDERS = "abcdefgh"
_FIRST_DAY = datetime(2025, 1, 6, tzinfo=UTC)

#: Each is in docs/cookbook.md, word for word but for the name of the video.
QUESTIONS = {
    "mean of one expression per second of one video": """
        SELECT second, mean_p_happiness FROM seconds WHERE path = '{path}' ORDER BY second
    """,
    "top ten moments of an expression over everything": """
        SELECT file_name, track_id, second, max_p_happiness FROM seconds
        ORDER BY max_p_happiness DESC, video_id, track_id, second LIMIT 10
    """,
    "share of time per expression by folder": """
        WITH seen AS (
            SELECT regexp_extract(path, '([^/]*)/[^/]*$', 1) AS folder, expression, sum(screen_time_s) AS seconds
            FROM spans GROUP BY ALL
        )
        SELECT folder, expression, seconds / sum(seconds) OVER (PARTITION BY folder) AS share FROM seen ORDER BY ALL
    """,
    "longest episodes of one expression": """
        SELECT file_name, track_id, start_s, end_s - start_s AS seconds FROM episodes
        WHERE expression = 'happiness' ORDER BY seconds DESC, video_id, start_s LIMIT 10
    """,
    "frames without a face by week": """
        WITH files AS (
            SELECT DISTINCT ON (video_id) v.*, r.mtime_ns
            FROM videos v JOIN runs r USING (run_id, path, video_id) ORDER BY video_id, r.mtime_ns
        )
        SELECT date_trunc('week', make_timestamp(mtime_ns // 1000)) AS week, sum(n_frames) AS frames,
               sum(n_frames - n_frames_with_face - n_frames_undecodable) AS without_face
        FROM files GROUP BY ALL ORDER BY ALL
    """,
}


def name_of(number: int) -> str:
    """A content's name, as random as a hash is."""
    return sha256(str(number).encode()).hexdigest()[:16]


def fill(lake: Lake, n_rows: int, n_videos: int) -> None:
    """Commit ``n_videos`` of about ``n_rows`` observations together; what is there already stays."""
    frames = max(1, round(n_rows / n_videos / 1.5))
    batch, rows_in_batch, done = [], 0, lake.done_videos(ANALYSIS_A)
    for number in (number for number in range(n_videos) if name_of(number) not in done):
        rng = np.random.default_rng(number)
        gone = rng.integers(0, frames, 4)
        without = tuple(frame for first in gone for frame in range(first, min(first + frames // 50, frames)))
        rows = face_rows(frames, n_faces=1 + number % 2, without_face=without, seed=number)
        when = _FIRST_DAY + timedelta(days=365 * number / n_videos)
        video = finished(
            number,
            video_id=name_of(number),
            path=f"/archive/{_FOLDERS[number % len(_FOLDERS)]}/session {number:04}.mp4",
            mtime_ns=int(when.timestamp() * 1e9),
            duration_s=frames / _FPS,
            width_px=1280,
            height_px=720,
            codec="h264",
        )
        batch.append((video, rows))
        rows_in_batch += len(rows)
        if rows_in_batch >= _ROWS_PER_COMMIT or number == n_videos - 1:
            lake.commit_segments([Segment(ANALYSIS_A, video.video_id, 0, rows) for video, rows in batch])
            lake.commit_videos([video for video, _ in batch])
            batch, rows_in_batch = [], 0
            print(f"{number + 1} videos", file=sys.stderr, flush=True)
    with connect(lake) as con:
        counts = "n_frames, n_faces, n_frames_with_face, size_bytes, mtime_ns"
        rows = con.sql(f"SELECT video_id, path, {counts} FROM raw.videos").to_arrow_table().to_pylist()
    manifest = RunManifest("scale", _FIRST_DAY, _FIRST_DAY + timedelta(hours=1), {}, MODEL_A)
    lake.append_run(manifest, [VideoOutcome(status="ok", **row) for row in rows])


def known_run(lake: Lake) -> bool:
    """Whether a lake was filled to its end."""
    with connect(lake) as con:
        return con.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None


def ask(place: Path, question: str, threads: int) -> None:
    """Print the answer's time, first and second, as JSON; the process knows nothing of the lake before."""
    taken = {}
    lake = Lake.open(place)
    wall, cpu = time.perf_counter(), time.process_time()
    con = connect(lake)
    con.execute(f"SET threads = {threads}")
    taken["connect_s"] = time.perf_counter() - wall
    for what in ("cold", "warm"):
        rows = con.execute(question).fetchall()
        taken[f"{what}_s"], taken[f"{what}_cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
        wall, cpu = time.perf_counter(), time.process_time()
    assert rows, "no answer"
    print(json.dumps({name: round(value, 3) for name, value in taken.items()} | {"rows": len(rows)}))


def measure(place: Path, threads: int) -> dict[str, Any]:
    found = {}
    path = "/archive/d/session 0003.mp4"
    for name, question in QUESTIONS.items():
        words = [sys.executable, "-m", "benchmarks.scale", "--ask", question.format(path=path), "--lake", str(place)]
        done = subprocess.run([*words, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout)
        print(name, done.stdout.strip(), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compact", action="store_true", help="ask the lake as it was written")
    parser.add_argument("--lake", type=Path, help="keep the lake here, and use it if it is there")
    parser.add_argument("--json", type=Path, help="add the figures to this file, under the number of rows")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.lake, options.ask, options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = options.lake or Path(folder) / "lake"
        made = {}
        lake = Lake.open(place, create=True)
        if not known_run(lake):
            started = time.perf_counter()
            fill(lake, options.rows, options.videos)
            made["fill_s"] = round(time.perf_counter() - started)
            started = time.perf_counter()
            if not options.no_compact:
                lake.compact()
                made["compact_s"] = round(time.perf_counter() - started)
        with connect(lake) as con:
            n_videos, n_faces = con.execute("SELECT count(*), sum(n_faces)::BIGINT FROM videos").fetchone() or (0, 0)
            n_rows = (con.execute("SELECT count(*) FROM raw.observations").fetchone() or (0,))[0]
        files = [Path(file) for file in data_files(place, "observations")]
        facts = {
            "videos": n_videos,
            "rows": n_rows,
            "faces": n_faces,
            "files": len(files),
            "bytes_a_row": round(sum(file.stat().st_size for file in files) / n_rows, 1),
            **made,
            "threads": options.threads,
            "questions": measure(place, options.threads),
            "load_average": round(os.getloadavg()[0], 1),
            **machine(),
        }
    if options.json:
        add_result(options.json, str(options.rows), facts)


if __name__ == "__main__":
    main()
