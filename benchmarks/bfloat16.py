"""How much bfloat16 saves in training on a CPU, in the network and in Muon.

CPU seconds of forward and backward of a batch, and of orthogonalising every matrix once, on one thread and in turn with
float32: `python -m benchmarks.bfloat16 [--json FILE]`. On a CPU without bfloat16 units it shows why it is off there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mfer import muon
from mfer.network import MFER
from mfer.precision import fast_bfloat16
from mfer.recipe import Recipe

_BATCH, _ROUNDS = 64, 4


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MFER(Recipe.load("ferplus_cpu").architecture).train()

    def step(side_px: int, low: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = model(torch.randn(_BATCH, 1, side_px, side_px))
        logits.float().logsumexp(1).sum().backward()

    def orthogonalise(low: bool) -> None:
        muon.fast_bfloat16 = lambda device: low
        for matrix in matrices:
            muon.orthogonalise(matrix)

    groups = muon.parameter_groups(model, (), 0.0)
    matrices = [p.detach().flatten(1) for group in groups if group["muon"] for p in group["params"]]
    kinds = {"float32": False, "bfloat16": True}
    works: dict[str, dict[str, Callable[[], object]]] = {
        f"images per CPU-second, {side} px": {k: partial(step, side, v) for k, v in kinds.items()}
        for side in (32, 40, 48)
    }
    works["CPU seconds of Muon per step"] = {k: partial(orthogonalise, v) for k, v in kinds.items()}
    rows: dict[str, dict[str, float]] = {}
    for name, pair in works.items():
        best = {kind: min(cpu_seconds(work) for _ in range(_ROUNDS)) for kind, work in pair.items()}
        rows[name] = {k: round(_BATCH / v if "images" in name else v, 3) for k, v in best.items()}
        print(name, rows[name], flush=True)
    if options.json:
        facts = {
            "cpu": torch.cpu.get_capabilities().get("cpu_name"),
            "fast_bfloat16": fast_bfloat16(torch.device("cpu")),
            "torch": torch.__version__,
            **rows,
        }
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
