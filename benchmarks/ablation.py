"""What each part of the network and each feature loss is worth: the paper's ablation, small, with three seeds.

    python -m benchmarks.ablation --data FERPLUS [--out runs/ablation] [--json FILE] [--processes 2]

Every variant is trained from scratch with the settings of the recipe ``ferplus_cpu``, on all training faces, but
smaller (32 px) and shorter (``--epochs``), so that two cores train all of them in two hours. Within a seed every
variant sees the same faces in the same order with the same augmentation. The selection half chooses the epoch, as in
any training; figures are of the report half. A killed run goes on where it was and trains no finished variant again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from flows.training import read_parts
from mfer.metrics import measure, softmax
from mfer.prepared import PreparedFaces
from mfer.recipe import Recipe
from mfer.train import Trainer, predict_logits
from pipelines.learning.prepare import prepare_faces

SEEDS = (0, 1, 2)
#: Each variant is compared with the one it is built on: (architecture and loss settings, name of that one).
VARIANTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "backbone": ({"ds": "none", "multiscale": False, "feature_loss": "none"}, None),
    "+ DS, depthwise": ({"ds": "depthwise", "multiscale": False, "feature_loss": "none"}, "backbone"),
    "+ DS, dense": ({"ds": "dense", "multiscale": False, "feature_loss": "none"}, "backbone"),
    "+ Msc": ({"ds": "depthwise", "multiscale": True, "feature_loss": "none"}, "+ DS, depthwise"),
    "+ centre loss": ({"ds": "depthwise", "multiscale": True, "feature_loss": "centre"}, "+ Msc"),
    "+ island loss": ({"ds": "depthwise", "multiscale": True, "feature_loss": "island"}, "+ Msc"),
    "+ LGM loss": ({"ds": "depthwise", "multiscale": True, "feature_loss": "lgm"}, "+ Msc"),
    "+ DSF loss": ({"ds": "depthwise", "multiscale": True, "feature_loss": "dsf"}, "+ Msc"),
}
_SIDE_PX = 32
#: Fewer steps than the recipe's average is meant for, and larger ones, which waste less on the optimiser.
_EMA, _BATCH_SIZE = 0.99, 256

_faces: dict[str, PreparedFaces] = {}


def recipe_of(variant: str, seed: int, epochs: int) -> Recipe:
    """The recipe of a variant; all else is ``ferplus_cpu``'s."""
    settings, _ = VARIANTS[variant]
    base = Recipe.load("ferplus_cpu")
    shape = {name: value for name, value in settings.items() if name != "feature_loss"}
    return dataclasses.replace(
        base,
        name=f"ablation: {variant}",
        architecture=dataclasses.replace(base.architecture, **shape),
        crop=dataclasses.replace(base.crop, side_px=_SIDE_PX),
    ).replace(
        epochs=epochs,
        seed=seed,
        ema=_EMA,
        batch_size=_BATCH_SIZE,
        small_side_px=0,
        feature_loss=settings["feature_loss"],
    )


def _prepare(data: Path) -> None:
    """In each process, once: the faces, with the landmarks that the first process has found."""
    torch.set_num_threads(1)
    parts = read_parts(data)
    for name in ("train", "selection", "report"):
        _faces[name] = prepare_faces(getattr(parts, name), 1)


def _train(variant: str, seed: int, epochs: int, folder: Path) -> dict[str, Any]:
    path = folder / "figures.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    started_s = time.process_time()
    recipe = recipe_of(variant, seed, epochs)
    trained = Trainer(recipe, _faces["train"], _faces["selection"], folder).run()
    faces = _faces["report"]
    logits = predict_logits(trained.model, faces.crops(recipe.crop), recipe.crop)
    found = measure(softmax(logits), faces.faces.target, faces.faces.majority, n_resamples=1)
    facts = {
        "accuracy": found.accuracy.value,
        "mean_recall": found.mean_recall.value,
        "n_parameters": sum(p.numel() for p in trained.model.parameters()),
        "cpu_s": round(time.process_time() - started_s, 1),
    }
    path.write_text(json.dumps(facts))
    (folder / "state.safetensors").unlink()
    return facts


def summarise(found: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per variant: mean and deviation over seeds, and the same of the gain, seed by seed, over its base.

    Only seeds for which both were trained count.
    """
    rows = []
    for variant, (_, base) in VARIANTS.items():
        seeds = [seed for seed in SEEDS if (variant, seed) in found and (base is None or (base, seed) in found)]
        if not seeds:
            continue
        runs = [found[variant, seed] for seed in seeds]
        row: dict[str, Any] = {"variant": variant, "over": base, "seeds": seeds}
        for name in ("accuracy", "mean_recall"):
            values = np.array([run[name] for run in runs])
            row[name] = _spread(values)
            if base is not None:
                row[name]["gain"] = _spread(values - [found[base, seed][name] for seed in seeds])
        row["n_parameters"] = runs[0]["n_parameters"]
        row["cpu_s"] = round(float(np.mean([run["cpu_s"] for run in runs])))
        rows.append(row)
    return rows


def _spread(values: np.ndarray) -> dict[str, Any]:
    sd = round(float(values.std(ddof=1)), 4) if len(values) > 1 else None
    return {"mean": round(float(values.mean()), 4), "sd": sd}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.parquet and valid.parquet")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="states and figures of the runs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    _prepare(options.data)  # finds the landmarks once for all processes
    counts = {name: len(faces) for name, faces in _faces.items()}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawn, _prepare, (options.data,)) as pool:
        at_work = {
            pool.submit(_train, variant, seed, options.epochs, options.out / f"{options.epochs}-{i}-{seed}"): (
                variant,
                seed,
            )
            for seed in SEEDS
            for i, variant in enumerate(VARIANTS)
        }
        for done in as_completed(at_work):
            found[at_work[done]] = done.result()
            print(*at_work[done], done.result(), flush=True)
            if options.json:  # as far as it is: a table of fewer seeds is one too
                rows = summarise(found)
                facts = {**machine(), "epochs": options.epochs, "side_px": _SIDE_PX, "faces": counts, "rows": rows}
                options.json.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(summarise(found), indent=1))


if __name__ == "__main__":
    main()
