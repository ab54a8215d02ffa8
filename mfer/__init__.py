"""Apparent facial expressions in video: analyse, ask, and load models from Python.

``mfer.analyze("videos", lake="lake")`` does what the command ``mfer analyze`` does, ``mfer.connect("lake")`` opens the
tables for SQL, ``mfer.load_model()`` gives the network. Importing this package loads nothing else: each function
fetches what it needs. The rest of the package is the network itself; start with ``network.py`` and ``train.py``. Its
modules import nothing of this project; the three functions below are the one exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import duckdb

    from flows.run import RunSummary
    from pipelines.scoring.scorer import ScoringNet

__all__ = ["analyze", "connect", "load_model"]


def analyze(
    paths: str | Path | Iterable[str | Path],
    lake: str | Path = "lake",
    *,
    model: str = "default",
    device: str = "auto",
    workers: int = 1,
    stream: int | Literal["all"] | None = None,
    progress: bool = True,
    pictures: bool = False,
    sequence: bool = False,
    **settings: Any,
) -> RunSummary:
    """Analyse videos and pictures, and store a row per face per frame in a lake. What is there already is skipped.

    Args:
        paths: a video, a picture, a folder, a pattern, or several of them.
        lake: the folder, or address in an object store, that holds the tables; it is made where there is none.
        model: a name as in ``mfer models list``, or a model's folder.
        device: ``auto``, ``cpu`` or a CUDA device.
        workers: processes, each with one video at a time.
        stream: number of the video stream to analyse, from 0, in files with several; ``all`` is each of them, None
            the one that players show.
        progress: draw bars where standard error is a terminal.
        pictures: analyse the pictures in folders, too.
        sequence: analyse numbered pictures as one video, of which the setting ``fps`` is the rate.
        settings: of ``pipelines.settings.AnalysisSettings``, such as ``fps=5.0``.

    Returns:
        What was done to each video: ``summary.outcomes``, and ``summary.to_dict()`` as plain numbers. A video that
        cannot be read does not raise; its outcome says why.

    Raises:
        ConfigError: settings that cannot be.
        LakeError: the lake cannot be opened or made.
        ModelError: no such model.
    """
    from flows.analyze import analyze_folder
    from flows.cli.progress import make_progress
    from flows.run import FolderRun
    from pipelines.settings import AnalysisSettings

    several = [paths] if isinstance(paths, str | Path) else paths
    run = FolderRun(
        paths=tuple(str(path) for path in several),
        lake=str(lake),
        model=model,
        device=device,
        workers=workers,
        settings=AnalysisSettings(**settings),
        stream=stream,
        pictures=pictures,
        sequence=sequence,
    )
    with make_progress(quiet=not progress) as shown:
        return analyze_folder(run, shown)


def connect(lake: str | Path = "lake", model: str | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views and table functions of a lake, as the lake is now.

    ``connect("lake").sql("SELECT * FROM scores")`` gives a relation; the lake's files are only read. With ``model``
    the views show that model's scores alone. See ``storage.connect``.

    Raises:
        LakeError: there is no lake, it cannot be read, or no video has scores of that model.
    """
    import storage

    return storage.connect(lake, model)


def load_model(name: str = "default", lake: str | Path | None = None, device: str = "auto") -> ScoringNet:
    """A model that is ready to score aligned faces.

    Args:
        name: a name as in ``mfer models list``, or a model's folder.
        lake: whose models are looked through first; None: those of the package.
        device: ``auto``, ``cpu`` or a CUDA device.

    Returns:
        Called with crops uint8 [F,C,S,S], as ``model.card.crop`` describes them, it gives calibrated probabilities
        float32 [F,K] of ``model.card.class_names``.

    Raises:
        ModelError: no such model, or one that is damaged.
    """
    from pipelines.scoring.lookup import find_model
    from pipelines.scoring.scorer import ScoringNet, choose_device
    from storage.lake import Lake

    return ScoringNet(find_model(name, None if lake is None else Lake.open(lake)), choose_device(device))
