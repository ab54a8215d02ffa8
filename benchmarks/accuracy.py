"""The default model and the package fer on the same labelled faces, in one run.

    python -m benchmarks.accuracy --data valid.parquet [--split report] [--json FILE]

Grey pictures that a face fills, as FER2013 has them: fer gets each as it is, which is how its network was trained, and
the model here finds landmarks and cuts the face by its own crop, as everywhere. fer knows no contempt, so the figures
are given over all faces and over those of its seven classes, where contempt is left out of both sides' answers.
"Evened out by half" divides each probability by the square root of its class's share of the training faces: what a
user can do who cares as much for rare expressions as for common ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.peers import peer_command
from mfer.data import read_faces
from mfer.metrics import measure, wilson_interval
from pipelines.learning.prepare import prepare_faces
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import ScoringNet
from storage.exports.formats import FER_CLASSES


def fer_probabilities(pictures: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """float32 [N,K] in the order of ``class_names``; 0 for what fer does not know."""
    command, env = peer_command("fer", "fer_faces.py")
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "pictures.npy", Path(folder) / "probabilities.npz"
        np.save(given, pictures)
        subprocess.run([*command, given, found], env={**os.environ, **env}, check=True, capture_output=True)
        with np.load(found) as result:
            prob, names = result["prob"], [FER_CLASSES[name] for name in result["names"].tolist()]
    ordered = np.zeros((len(pictures), len(class_names)), np.float32)
    ordered[:, [class_names.index(name) for name in names]] = prob
    return ordered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a Parquet file of FER+ as docs/training.md has it")
    parser.add_argument("--split", default="report", choices=["all", "selection", "report"])
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    faces = read_faces(options.data, options.split)
    net = ScoringNet(find_model("default"))
    prepared = prepare_faces(faces, net.card.crop.channels).with_classes(net.card.class_names)
    names = net.card.class_names
    assert isinstance(prepared.faces.pictures, np.ndarray)
    probabilities = {
        net.card.model_id: net(prepared.crops(net.card.crop)),
        "fer 25.10.3": fer_probabilities(prepared.faces.pictures, names),
    }
    counts = net.card.training["data"]["n_train_by_class"]
    share = np.array([counts[name] for name in names], float) / sum(counts.values())
    evened = probabilities[net.card.model_id] / np.sqrt(share)
    probabilities["the same, shares evened out by half"] = evened / evened.sum(1, keepdims=True)
    majority, target = prepared.faces.majority, prepared.faces.target
    known = np.array([name in FER_CLASSES.values() for name in names])
    in_both = known[majority]
    rows: dict[str, Any] = {}
    for name, prob in probabilities.items():
        over_all = measure(prob, target, majority, n_resamples=1)
        right = (np.where(known, prob, -1).argmax(1) == majority)[in_both]
        rows[name] = {
            "n": len(prob),
            "accuracy": round(over_all.accuracy.value, 4),
            "accuracy_interval": [
                round(v, 4) for v in wilson_interval(round(over_all.accuracy.value * len(prob)), len(prob))
            ],
            "mean_recall": round(over_all.mean_recall.value, 4),
            "ece": round(over_all.ece.value, 4),
            "of_seven_classes": {"n": int(in_both.sum()), "accuracy": round(float(right.mean()), 4)},
        }
        print(name, json.dumps(rows[name]), flush=True)
    if options.json:
        facts = {**machine(), "split": options.split, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
