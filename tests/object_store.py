"""A real S3 API on loopback (moto's server, in a process of its own), and a proxy in between that breaks things.

moto looks whether a key is there and stores it in two steps; real stores do that in one. The server therefore takes
conditional puts one after another. Azure's API is Azurite's, which is Microsoft's own emulator.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path

BUCKET = "lakes"
SECRET = "secret-that-nobody-may-find-anywhere"
_ROOT = Path(__file__).resolve().parent.parent


def environment(port: int) -> dict[str, str]:
    """What a user sets to reach the server at a port."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def running_server() -> Iterator[int]:
    """The port of a server with an empty bucket."""
    with _running("server") as port:
        make = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT", data=b"")
        with urllib.request.urlopen(make):
            yield port


def new_prefix(scheme: str = "s3") -> str:
    return f"{scheme}://{BUCKET}/{uuid.uuid4().hex[:8]}/a-lake"


# -- Azure ------------------------------------------------------------------------------------------------------------

#: Azurite's one account and its key, which its documentation names.
_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_AZURE_VERSION = "2021-08-06"


def missing_azurite() -> str:
    """Why there is no Azure store here; nothing where there is one."""
    return "" if shutil.which("azurite-blob") else "no azurite-blob is installed: npm install -g azurite"


@contextmanager
def running_azurite() -> Iterator[dict[str, str]]:
    """What a user sets to reach Azure's Blob API on loopback, with an empty container."""
    command = ["azurite-blob", "--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--blobPort", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            payload = (re.search(r"successfully listens on (http://\S+)", line) for line in process.stdout)
            url = next(found[1] for found in payload if found)
            _make_container(url)
            yield {
                "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
                "AZURE_STORAGE_ENDPOINT": f"{url}/{_ACCOUNT}",
                "AZURE_ALLOW_HTTP": "true",
            }
        finally:
            process.kill()


def _make_container(url: str) -> None:
    """Signed by hand (Azure's "Shared Key"): the client library of the project makes none."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _AZURE_VERSION}
    payload = "".join(f"{name}:{value}\n" for name, value in headers.items())
    to_sign = f"PUT{12 * chr(10)}{payload}/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    signature = hmac.digest(base64.b64decode(AZURE_KEY), to_sign.encode(), hashlib.sha256)
    headers |= {"Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(signature).decode()}", "Content-Length": "0"}
    make = urllib.request.Request(f"{url}/{_ACCOUNT}/{BUCKET}?restype=container", method="PUT", headers=headers)
    with urllib.request.urlopen(make):
        pass


# -- S3, and a proxy that breaks things -------------------------------------------------------------------------------


@dataclass
class Request:
    """One request as the proxy saw it; ``target`` is path and query as they were sent."""

    method: str
    target: str
    n_answer_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


#: Requests that a fault may be meant for, as regular expressions over "METHOD target".
COMMITS = r"^PUT .*/_delta_log/\d{20}\.json"
#: What ``slow`` adds to a request: about what a store in the same region takes.
SLOW_S = 0.03
UPLOADS = r"^PUT "
LISTINGS = r"^GET .*list-type="


@dataclass(frozen=True)
class Fault:
    """What befalls every n-th of the requests that ``only`` matches, at most ``times`` times (0: always).

    ``refuse``: 503 instead of an answer; ``forbid``: 403; ``cut``: half of the request reaches the store, then both
    ends are closed; ``lose``: the store does it, the answer is lost; ``stall``: no answer, ever; ``hold``: nothing
    happens until the next fault is set; ``unconditional``: the store does not see the condition; ``pass``: nothing;
    ``slow``: it takes ``SLOW_S`` longer.
    With ``kill_pid``, that process is killed first.
    """

    kind: str
    only: str = ""
    every: int = 1
    times: int = 0
    kill_pid: int = 0


@dataclass(frozen=True)
class Proxy:
    """The way to the store: notes every request and breaks those that it was told to.

    It is a process of its own: deltalake keeps Python's lock while it waits for some answers.
    """

    port: int
    upstream: int

    def set_fault(self, fault: Fault | None) -> None:
        self._control("fault", json.dumps(asdict(fault) if fault else None))

    def wait_until_held(self) -> None:
        self._control("held")

    def take_requests(self) -> list[Request]:
        """What was asked since the last time."""
        return [Request(*each) for each in json.loads(self._control("requests"))]

    def _control(self, what: str, body: str = "") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{_CONTROL}/{what}", data=body.encode())
        with urllib.request.urlopen(request, timeout=120) as answer:
            return bytes(answer.read())


_CONTROL = "proxy-control"


@contextmanager
def running_proxy(upstream: int) -> Iterator[Proxy]:
    with _running("proxy", str(upstream)) as port:
        yield Proxy(port, upstream)


@contextmanager
def _running(*words: str) -> Iterator[int]:
    """A process of this module, and the port that it says it listens at."""
    command = [sys.executable, "-m", "tests.object_store", *words]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.kill()


# -- the proxy's own process ------------------------------------------------------------------------------------------


class _Breaker:
    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        self.fault: Fault | None = None
        self.n_seen = self.n_done = 0
        self.held, self.released = threading.Event(), threading.Event()

    def control(self, what: str, body: bytes) -> bytes:
        if what == "held":
            self.held.wait()
        with self.lock:
            if what == "fault":
                payload = json.loads(body)
                self.fault = Fault(**payload) if payload else None
                self.n_seen = self.n_done = 0
                self.released.set()
                self.held, self.released = threading.Event(), threading.Event()
            taken = self.requests
            if what == "requests":
                self.requests = []
        return json.dumps([[r.method, r.target, r.n_answer_bytes] for r in taken]).encode()

    def decide(self, request: Request) -> str | None:
        with self.lock:
            fault = self.fault
            if fault is None or not re.search(fault.only, str(request)) or (fault.times and self.n_done >= fault.times):
                return None
            self.n_seen += 1
            if self.n_seen % fault.every:
                return None
            self.n_done += 1
            held, released = self.held, self.released
        if fault.kill_pid:
            os.kill(fault.kill_pid, signal.SIGKILL)
        if fault.kind == "hold":
            held.set()
            released.wait()
        if fault.kind == "slow":
            time.sleep(SLOW_S)
        return fault.kind

    def serve(self, client: socket.socket) -> None:
        """One request for each connection: simple, and every fault ends its connection anyway."""
        with suppress(OSError), client:
            head, body = _read_request(client)
            if not head:
                return
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ", 2)
            if target.startswith(f"/{_CONTROL}/"):
                _answer(client, "200 OK", self.control(target.rpartition("/")[2], body))
                return
            request = Request(method, target)
            with self.lock:
                self.requests.append(request)
            self._pass_on(client, request, [first, *lines], body)

    def _pass_on(self, client: socket.socket, request: Request, lines: list[str], body: bytes) -> None:
        fault = self.decide(request)
        if fault in ("refuse", "forbid"):
            status, code = {"refuse": ("503 Slow Down", "SlowDown"), "forbid": ("403 Forbidden", "AccessDenied")}[fault]
            text = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
            _answer(client, status, text.encode())
            return
        if fault == "stall":
            client.recv(1)  # until the client gives up
            return
        dropped = ("connection", "expect") + (("if-none-match", "if-match") if fault == "unconditional" else ())
        kept = [line for line in lines if line.partition(":")[0].lower() not in dropped]
        sent = "\r\n".join([*kept, "Connection: close"]).encode("latin-1") + b"\r\n\r\n" + body
        with socket.create_connection(("127.0.0.1", self.upstream)) as store:
            if fault == "cut":
                store.sendall(sent[: len(sent) - max(len(body) // 2, 1)])
                return
            store.sendall(sent)
            while answer := store.recv(1 << 16):
                if fault != "lose":
                    request.n_answer_bytes += len(answer)
                    client.sendall(answer)


def _answer(client: socket.socket, status: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)


def _run_proxy(upstream: int) -> None:
    breaker = _Breaker(upstream)
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            client, _ = server.accept()
            threading.Thread(target=breaker.serve, args=(client,), daemon=True).start()


def _read_request(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    n_bytes = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < n_bytes:
        more = client.recv(1 << 16)
        if not more:
            return b"", b""
        body += more
    return head, body


def _run_server() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_by_one(environ, start_response):  # type: ignore[no-untyped-def]
        if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ:
            with lock:
                return list(app(environ, start_response))
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, one_by_one, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


def _end_with_parent(parent: int) -> None:
    wait = threading.Event()
    while os.getppid() == parent:
        wait.wait(1)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if sys.argv[1] == "server":
        _run_server()
    else:
        _run_proxy(int(sys.argv[2]))
