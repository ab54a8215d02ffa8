"""Networks in ONNX Runtime, which on a CPU is faster than PyTorch at the sizes used here.

An exported network is kept in ``$XDG_CACHE_HOME/mfer/onnx`` under a name made of its weights, so that only the first
run waits for the export, and loads PyTorch for it.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from platformdirs import user_cache_path

from storage.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["OnnxNet", "export", "load_or_export"]

#: Bump when the same weights would give another file.
_EXPORT_VERSION = 3


class OnnxNet:
    """A network in ONNX Runtime on one thread of the CPU; called with the input's rows, returns the outputs'.

    Args:
        path: the ONNX file.
        rows_at_once: more rows are split into passes of so many: what stays in a core's cache is quicker.
    """

    def __init__(self, path: Path, rows_at_once: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a process per core beats threads in one
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._rows_at_once = rows_at_once

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        x = np.ascontiguousarray(x)
        starts = range(0, max(len(x), 1), self._rows_at_once)
        parts = [self._session.run(None, {self._input: x[start : start + self._rows_at_once]}) for start in starts]
        return tuple(parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True)))


def export(
    net: nn.Module,
    example: Tensor,
    path: Path,
    input_name: str,
    output_names: Sequence[str],
    free_axes: Sequence[int] = (0,),
) -> None:
    """Write a network as ONNX.

    Args:
        net: takes one tensor.
        example: an input of at least two rows.
        path: the file; it is there whole or not at all.
        free_axes: the axes of the input that may have any length. Those of the outputs follow from them.
    """
    import torch  # late: a worker whose networks were exported before does without it

    with whole_file(path) as fresh, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package calls itself legacy
        torch.onnx.export(
            net.eval(),
            (example,),
            str(fresh),
            dynamo=False,
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_axes={
                input_name: {axis: f"N{axis}" for axis in free_axes},
                **{name: {0: "N0"} for name in output_names},
            },
        )


def load_or_export(
    name: str,
    make: Callable[[], nn.Module],
    example: np.ndarray,
    output_names: Sequence[str],
    *,
    rows_at_once: int,
    free_axes: Sequence[int] = (0,),
) -> OnnxNet:
    """A network from the cache, or exported into it.

    Args:
        name: differs where the weights or the sums do.
        make: makes the network; only called where the cache does not have it.
        example, output_names, free_axes: see ``export``.
        rows_at_once: see ``OnnxNet``.
    """
    path = user_cache_path("mfer") / "onnx" / f"{name}-{_EXPORT_VERSION}.onnx"
    if path.is_file():
        try:
            return OnnxNet(path, rows_at_once)
        except Exception:  # its errors have no common base; whatever damaged the file, it can be made again
            path.unlink(missing_ok=True)
    import torch

    def exported(to: Path) -> OnnxNet:
        export(net, torch.from_numpy(example), to, "x", output_names, free_axes)
        return OnnxNet(to, rows_at_once)

    net = make()
    try:
        return exported(path)
    except OSError:  # a cache that cannot be written costs time, not the run
        with tempfile.TemporaryDirectory(prefix="mfer-") as folder:
            return exported(Path(folder) / path.name)
