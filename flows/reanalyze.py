"""What an old model scored, scored by a new one: stored faces are used again and no old row is touched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress, RunSummary
from mfer.errors import ConfigError
from pipelines.scoring.lookup import known_models
from pipelines.settings import AnalysisSettings, DetectorSettings, QualitySettings, TrackerSettings
from storage.delta.relations import Connection, read_errors, rows_of
from storage.errors import LakeError
from storage.identity import faces_id, stream_of_video
from storage.lake import Lake
from storage.originals import FILES_SQL, find_place
from storage.sql.model_choice import find_model_id
from storage.sql.views import connect

__all__ = ["Reanalysis", "reanalyze"]


@dataclass(frozen=True)
class Reanalysis:
    """What was scored again: a run per kind of settings. ``missing`` are paths whose file is gone or has changed,
    ``outdated`` paths that were analysed by another version of the detector, so that their faces cannot be reused."""

    runs: tuple[RunSummary, ...]
    missing: tuple[str, ...]
    outdated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [run.to_dict() for run in self.runs],
            "missing": list(self.missing),
            "outdated": list(self.outdated),
        }


def reanalyze(
    lake: Lake, old_model: str, new_model: str, device: str = "auto", progress: Progress | None = None
) -> Reanalysis:
    """Score with a new model every video that an old one has scored, the shortest first, with the same settings.

    A video that the new model has scored already is skipped, so a run that was killed is simply started again.
    ``old_model`` is what ``find_model_id`` takes, or a model of the lake or the package that has scored nothing yet.

    Raises:
        LakeError: ``unknown_model``; and, with ConfigError and ModelError, as ``analyze_folder``.
    """
    with read_errors(lake.location), connect(lake) as con:
        old_model_id = _old_model_id(con, lake, old_model)
        done = rows_of(
            con,
            "SELECT video_id, path, faces_id, settings FROM raw.videos WHERE model_id = ?"
            " ORDER BY n_frames * width_px * height_px, path",
            [old_model_id],
        ).to_pylist()
        files: dict[str, list[dict[str, Any]]] = {}
        for row in rows_of(con, FILES_SQL).to_pylist():
            files.setdefault(row["video_id"], []).append(row)
    missing, outdated = [], []
    paths: dict[tuple[str, int | None], list[str]] = {}
    settings_of: dict[str, AnalysisSettings] = {}
    for video in done:
        settings, named = _settings(video["settings"]), files[video["video_id"]]
        if settings is None or faces_id(settings.hashed()) != video["faces_id"]:
            outdated.append(video["path"])
        elif (path := find_place(named, video["video_id"])) is None:
            missing.append(video["path"])
        else:
            settings_of[video["faces_id"]] = settings
            paths.setdefault((video["faces_id"], stream_of_video(video["video_id"])), []).append(str(path))
    runs = tuple(
        analyze_folder(
            FolderRun(
                tuple(dict.fromkeys(ours)),
                str(lake.location),
                new_model,
                device,
                settings=settings_of[key],
                stream=stream,
            ),
            progress,
        )
        for (key, stream), ours in paths.items()
    )
    return Reanalysis(runs, tuple(missing), tuple(outdated))


def _old_model_id(con: Connection, lake: Lake, name: str) -> str:
    """The model that a name stands for; a model that is known need not have scored any video of the lake."""
    try:
        return find_model_id(con, lake, name)
    except LakeError:
        for _, card in known_models(lake):
            if name in (card.model_id, card.name):
                return card.model_id
        raise


def _settings(text: str) -> AnalysisSettings | None:
    """The settings that an analysis was made with; None where this version does not know them."""
    stored = json.loads(text)
    try:
        return AnalysisSettings(
            every=stored["every"],
            fps=stored["fps"],
            rotate=stored["rotate"],
            detector=DetectorSettings(**stored["detector"]),
            tracker=TrackerSettings(**stored["tracker"]),
            quality=QualitySettings(**stored["quality"]),
            segment_s=stored["segment_s"],
        )
    except (KeyError, TypeError, ConfigError):
        return None
