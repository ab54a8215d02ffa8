"""A quiet end of processes that ran a flow.

Prefect leaves two threads with an event loop running. What they hold survives the interpreter's own cleaning up, among
it all of DuckDB's module, about which its binding library then complains in forty lines on standard error.
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

__all__ = ["end_loops_at_exit"]

_PATIENCE_S = 5.0


def end_loops_at_exit() -> None:
    """End Prefect's loops when the interpreter exits, after all that Prefect itself does then: call it at import."""
    atexit.unregister(_end_loops)
    atexit.register(_end_loops)


def _end_loops() -> None:
    threads: Any = sys.modules.get("prefect._internal.concurrency.threads")  # no public function ends them
    for name in ("_run_sync_loop", "_global_loop"):
        loop = getattr(threads, name, None)
        if loop is not None and loop.thread.is_alive():
            loop.shutdown()
            loop.thread.join(_PATIENCE_S)
