"""Run a command as a processor without anything beyond AVX2 would, on one that has more.

    python -m benchmarks.avx2_only python -m benchmarks.speed

Many clouds have such processors, and libraries choose their routines by what CPUID says: ``avx2_only.c`` has Linux
trap that instruction in the command and all its children, and leaves AVX-512, VNNI, bf16 and AMX out of the answer.
Clock and caches stay those of the processor at hand. Needs a C compiler and an Intel processor (``cpuid_fault`` in
/proc/cpuinfo).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["is_hidden"]

_SOURCE = Path(__file__).with_suffix(".c")


def is_hidden() -> bool:
    """True in a command that was started by this module."""
    return _SOURCE.stem in os.environ.get("LD_PRELOAD", "")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/{_SOURCE.stem}.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, str(_SOURCE)], check=True)
        return subprocess.run(sys.argv[1:], env={**os.environ, "LD_PRELOAD": library}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
