"""What end-to-end tests share: one thread, a tiny model, a clip of a few frames and a way to run the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.object_store import Proxy

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, also by the processes that tests start
os.environ.pop("MFER_LAKE", None)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights; do not change it."""
    from tests.models import tiny_model

    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def write_talk(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a clip of the talking man: frames ``shown`` of the original, None for a black one."""
    import numpy as np

    from pipelines.video.encode import write_video
    from tests.faces import carphone_frames

    def write(path: Path, shown: list[int | None], fps: float = 25) -> Path:
        talk = carphone_frames()
        black = np.zeros_like(talk[0])
        return write_video(path, [black if k is None else talk[k] for k in shown], fps, options={"crf": "18"})

    return write


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory, write_talk: Callable[..., Path]) -> Path:
    """Ten frames at 25 a second: a face in 0-3 and 7-9, none in 4-6; do not change it."""
    return write_talk(tmp_path_factory.mktemp("talk") / "talk.mp4", [0, 1, 2, 3, None, None, None, 60, 61, 62])


@pytest.fixture(scope="session")
def object_store_port() -> Iterator[int]:
    """The port of a real S3 API on loopback."""
    pytest.importorskip("moto", reason="the object store of the tests")
    from tests.object_store import running_server

    with running_server() as port:
        yield port


@pytest.fixture
def proxy(object_store_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to that store: what this process and its children ask goes through it."""
    from tests.object_store import environment, running_proxy

    with running_proxy(object_store_port) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield proxy
