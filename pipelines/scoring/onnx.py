"""Networks in ONNX Runtime, which on a CPU is faster than PyTorch at the sizes used here.

An exported network is kept in ``$XDG_CACHE_HOME/mfer/onnx`` under a name made of its weights, so that only the first
run waits for the export.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from storage.files import whole_file

__all__ = ["OnnxNet", "export", "load_or_export"]

#: Bump when the same weights would give another file.
_EXPORT_VERSION = 1


class OnnxNet:
    """A network in ONNX Runtime on one thread of the CPU; called with the input's rows, returns the outputs'."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a process per core beats threads in one
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(out) for out in self._session.run(None, {self._input: x.cpu().numpy()}))


def export(net: nn.Module, example: Tensor, path: Path, input_name: str, output_names: Sequence[str]) -> None:
    """Write a network as ONNX, with any number of rows.

    Args:
        net: takes one tensor.
        example: an input of at least two rows.
        path: the file; it is there whole or not at all.
    """
    names = [input_name, *output_names]
    with whole_file(path) as fresh, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package calls itself legacy
        torch.onnx.export(
            net.eval(),
            (example,),
            str(fresh),
            dynamo=False,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "N"} for name in names},
        )


def load_or_export(
    name: str, make: Callable[[], nn.Module], example: np.ndarray | Tensor, output_names: Sequence[str]
) -> OnnxNet:
    """A network from the cache, or exported into it.

    Args:
        name: differs where the weights or the sums do.
        make: makes the network; only called where the cache does not have it.
        example: an input of at least two rows.
    """
    path = user_cache_path("mfer") / "onnx" / f"{name}-{_EXPORT_VERSION}.onnx"
    if path.is_file():
        try:
            return OnnxNet(path)
        except Exception:  # its errors have no common base; whatever damaged the file, it can be made again
            path.unlink(missing_ok=True)
    net = make()
    try:
        export(net, torch.as_tensor(example), path, "x", output_names)
        return OnnxNet(path)
    except OSError:  # a cache that cannot be written costs time, not the run
        with tempfile.TemporaryDirectory(prefix="mfer-") as folder:
            export(net, torch.as_tensor(example), Path(folder) / path.name, "x", output_names)
            return OnnxNet(Path(folder) / path.name)
