"""How much the matrix form of small depthwise convolutions saves in training on a CPU.

Times forward and backward of one network with the library's kernel and with the matrix product in turn, in one
process and on one thread, and prints the ratio: `python benchmarks/depthwise.py [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from mfer import depthwise
from mfer.card import Architecture
from mfer.network import MFER

_BATCH, _ROUNDS = 64, 5


def time_step(model: MFER, x: torch.Tensor, y: torch.Tensor, max_positions: int) -> float:
    """CPU seconds of one training step with maps up to ``max_positions`` as matrix products."""
    depthwise._MAX_POSITIONS = max_positions
    started = time.process_time()
    F.cross_entropy(model(x), y).backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    matrix_positions = depthwise._MAX_POSITIONS
    rows = []
    for name, stem, side in (("mfer_atto", "conv2", 32), ("mfer_atto", "conv2", 40), ("mfer_atto", "patch4", 64)):
        arch = Architecture(name, in_channels=1, ds="depthwise", stem=stem, layer_scale=1.0)
        model = MFER(arch).train()
        x, y = torch.randn(_BATCH, 1, side, side), torch.randint(0, 8, (_BATCH,))
        times: dict[int, list[float]] = {0: [], matrix_positions: []}
        for round_ in range(_ROUNDS + 1):
            for positions, seen in times.items():
                seconds = time_step(model, x, y, positions)
                if round_:  # the first is warm-up
                    seen.append(seconds)
        kernel, matrix = (min(seen) for seen in times.values())
        rows.append(
            {
                "network": f"{name} {stem} {side} px",
                "kernel_images_per_cpu_s": round(_BATCH / kernel, 1),
                "matrix_images_per_cpu_s": round(_BATCH / matrix, 1),
                "ratio": round(kernel / matrix, 2),
            }
        )
        print(rows[-1])
    if options.json:
        facts = {"machine": platform.machine(), "torch": torch.__version__, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
