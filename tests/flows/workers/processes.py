"""The processes that a run of this process has started: not the servers that tests share."""

from __future__ import annotations

from contextlib import suppress

import psutil


def run_processes(module: str = "flows.workers.") -> list[psutil.Process]:
    """The children whose command line names the module: every process of a run, or those of one kind."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it ends just now
            if module in " ".join(child.cmdline()):
                found.append(child)
    return found
