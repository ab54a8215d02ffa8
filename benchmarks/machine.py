"""What a figure depends on beside the code: recorded with every result."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.avx2_only import is_hidden
from flows.revision import code_revision

__all__ = ["add_result", "instruction_sets", "machine", "show_machine"]

_LIBRARIES = ("torch", "onnxruntime", "av", "decord2", "facenet-pytorch", "pyarrow", "deltalake", "duckdb")
#: What decides how fast a network runs on a CPU, by the flags of /proc/cpuinfo (x86 and Arm) that say so.
_INSTRUCTION_SETS = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "NEON": {"asimd"},
}


def machine() -> dict[str, Any]:
    """Processor, its instruction sets, library versions and the commit."""
    lines = _cpuinfo()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "instruction_sets": instruction_sets(),
        "cores": len(lines and [line for line in lines if line.startswith("processor")]),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "commit": code_revision(),
    }


def instruction_sets() -> list[str]:
    """Those of AVX2, AVX-512, VNNI, bf16 and NEON that can be used; none where the system does not say."""
    if is_hidden():
        return ["AVX2 alone (the others hidden)"]
    flags = {
        flag
        for line in _cpuinfo()
        if line.lower().startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    return [name for name, of_set in _INSTRUCTION_SETS.items() if of_set & flags]


def show_machine(facts: dict[str, Any]) -> str:
    """The processor and its instruction sets, of what ``machine`` gave, to stand beside figures."""
    return ", ".join([facts["processor"], *facts.get("instruction_sets", [])])


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def add_result(path: Path, key: str, facts: dict[str, Any]) -> None:
    """Write figures into a file of results under a key, beside those of other keys."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | {key: facts}, indent=2) + "\n")
