"""What a figure depends on beside the code: recorded with every result."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from flows.revision import code_revision

__all__ = ["add_result", "machine"]

_LIBRARIES = ("torch", "onnxruntime", "av", "decord2", "facenet-pytorch", "pyarrow", "deltalake", "duckdb")


def machine() -> dict[str, Any]:
    """Processor, library versions and the commit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": len(lines and [line for line in lines if line.startswith("processor")]),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "commit": code_revision(),
    }


def add_result(path: Path, key: str, facts: dict[str, Any]) -> None:
    """Write figures into a file of results under a key, beside those of other keys."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | {key: facts}, indent=2) + "\n")
