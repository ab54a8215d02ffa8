"""A folder on a cluster of two nodes: the lake of the local engine, also when a node is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.analyze import analyze_folder
from flows.run import FolderRun, Progress, RunSummary
from mfer.errors import ConfigError
from pipelines.settings import AnalysisSettings, DetectorSettings
from storage.lake import Lake
from storage.maintenance.check import check_lake
from storage.records import VideoOutcome
from tests.flows.test_analyze import assert_same, write_talks
from tests.strangers import write_strangers

cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.full

SETTINGS = AnalysisSettings(detector=DetectorSettings(min_face_px=36), segment_s=1.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[cluster_utils.Cluster]:
    """A head that takes no actor, and two nodes with one core each."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))  # for the nodes
    monkeypatch.setenv("RAY_worker_niceness", "0")
    node = {"num_gpus": 0, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **node}
    )
    cluster.nodes = [cluster.add_node(num_cpus=1, **node) for _ in range(2)]
    try:
        yield cluster
    finally:
        cluster.shutdown()


def analyze(lake: Path, model: Path, folder: Path, address: str | None, progress: Progress | None = None) -> RunSummary:
    run = FolderRun(
        (str(folder),),
        str(lake),
        str(model),
        "cpu",
        8,
        SETTINGS,
        engine="ray" if address else "local",
        ray_address=address,
    )
    return analyze_folder(run, progress)


@pytest.fixture
def folder(tmp_path: Path, write_talk: Callable[..., Path]) -> Path:
    """One long video and short ones."""
    folder = write_talks(tmp_path / "videos", write_talk, n_videos=3, n_frames=20)
    write_talk(folder / "long.mp4", [None if j // 20 == 3 else j % 120 for j in range(200)])
    (folder / "text.mp4").write_text("no video")
    return folder


def test_cluster_makes_the_lake_of_the_local_engine(
    tmp_path: Path, model: Path, folder: Path, cluster: cluster_utils.Cluster
) -> None:
    summary = analyze(tmp_path / "ray", model, folder, cluster.address)
    assert (summary.count("ok"), summary.count("failed")) == (4, 1), summary.outcomes
    analyze(tmp_path / "local", model, folder, None)
    assert_same(tmp_path / "ray", tmp_path / "local")
    assert check_lake(Lake.open(tmp_path / "ray")).is_sound
    again = analyze(tmp_path / "ray", model, folder, cluster.address)
    assert (again.count("skipped"), again.count("failed")) == (4, 1)


def test_node_that_is_lost_costs_no_video(
    tmp_path: Path, model: Path, folder: Path, cluster: cluster_utils.Cluster
) -> None:
    class LoseNode(Progress):
        lost = False

        def video(self, outcome: VideoOutcome) -> None:
            if not self.lost:
                self.lost = True
                cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    progress = LoseNode()
    summary = analyze(tmp_path / "ray", model, folder, cluster.address, progress)
    assert progress.lost
    assert (summary.count("ok"), summary.count("failed")) == (4, 1), summary.outcomes
    analyze(tmp_path / "local", model, folder, None)
    assert_same(tmp_path / "ray", tmp_path / "local")
    assert check_lake(Lake.open(tmp_path / "ray")).is_sound


def test_cluster_that_is_not_there_is_said(tmp_path: Path, model: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster at '127.0.0.1:1'"):
        analyze(tmp_path / "ray", model, folder, "127.0.0.1:1")


def test_an_actor_runs_nothing_that_lies_in_the_working_folder(
    tmp_path: Path, model: Path, write_talk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_talk(tmp_path / "talk.mp4", list(range(4)))
    monkeypatch.chdir(write_strangers(tmp_path))
    run = FolderRun((str(video),), str(tmp_path / "lake"), str(model), "cpu", 1, SETTINGS, engine="ray")
    (outcome,) = analyze_folder(run).outcomes  # on a cluster that is started for it
    assert outcome.status == "ok", outcome
