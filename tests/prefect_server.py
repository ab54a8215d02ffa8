"""A Prefect server of a test's own, and processes as a user starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

__all__ = ["PATIENCE_S", "ROOT", "Background", "answers", "ask", "prefect", "quiet_machine", "until"]

ROOT = Path(__file__).resolve().parents[1]
#: For one command. A server needs 15 s of CPU to start, and a run imports torch.
PATIENCE_S = 900
#: For a process that was asked to end: below the twenty minutes after which a test is ended with all its processes.
_END_S = 300


def quiet_machine(home: Path) -> dict[str, str]:
    """The environment of a machine with nothing running: a Prefect home of its own and a port where nobody answers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{_free_port()}/api",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
    }


class Background:
    """A process whose output is read as it comes, for waiting on a line."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str) -> None:
        with self._news:
            found = self._news.wait_for(lambda: text in self.output or self._ended, PATIENCE_S)
        assert found, f"{text!r} did not come:\n{self.output}"
        assert text in self.output, f"ended without {text!r}:\n{self.output}"

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end, as Ctrl-C does; what is left of its session is killed."""
        self._process.send_signal(with_signal)
        try:
            self._process.wait(_END_S)
        finally:
            for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
                with contextlib.suppress(OSError):
                    if os.getsid(pid) == self._process.pid:
                        os.kill(pid, signal.SIGKILL)
            self._reader.join(30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def prefect(env: dict[str, str], *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    wide = env | {"COLUMNS": "400"}
    return subprocess.run(
        ["prefect", *arguments], env=wide, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def ask(env: dict[str, str], path: str, **body: Any) -> list[dict[str, Any]]:
    user, _, password = env.get("PREFECT_API_AUTH_STRING", "").partition(":")
    auth = httpx.BasicAuth(user, password) if user else None
    answer = httpx.post(f"{env['PREFECT_API_URL']}/{path}/filter", json=body, timeout=120, auth=auth)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def answers(env: dict[str, str]) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{env['PREFECT_API_URL']}/health").is_success
    return False


def until(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.5)
    return value
