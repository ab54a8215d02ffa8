"""What a person can choose about an analysis, declared once: ``mfer analyze`` and the Prefect flow have these options.

A new one is a field here and its use in ``AnalysisOptions.run``. docs/commands.md and the table of parameters in
docs/deployments.md are made from the fields. Quick to import: no torch, no Prefect.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flows.run import ENGINES, NETWORKS, FolderRun, ProcessLimits
from mfer.errors import ConfigError
from pipelines.faces.detectors import DEFAULT_DETECTOR, DETECT_MODES, DETECTORS, DetectMode
from pipelines.scoring.settings import RUNTIMES
from pipelines.settings import ROTATIONS, AnalysisSettings, DetectorSettings, Rotation, parse_min_face
from pipelines.video.decoders import DECODERS

__all__ = ["AnalysisOptions", "Option", "analysis_options", "n_cores"]

Kind = Literal["text", "texts", "whole", "number", "pixels_or_share", "number_or_all", "flag"]


@dataclass(frozen=True)
class Option:
    """One option of an analysis.

    ``name`` is the parameter of the flow, ``flag`` the option of the command. ``choices`` are all that is allowed,
    ``least`` the smallest number and ``above`` what a number has to exceed. ``default_text`` says what happens without
    it where the default itself does not.
    """

    name: str
    flag: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    least: int | None = None
    above: float | None = None
    default_text: str = ""


def _option(default: Any, help: str, *, kind: Kind = "text", flag: str = "", **limits: Any) -> Any:
    return field(default=default, metadata={"flag": flag, "kind": kind, "help": help, **limits})


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """The choices of one analysis, as a person gives them; :meth:`run` checks them and puts them where they belong."""

    model: str = _option("default", "Name, id or folder of the model; see `mfer models list`.")
    exclude: Sequence[str] = _option((), "Pattern of files and folders to leave out, such as `*_proxy*`.", kind="texts")
    pictures: bool = _option(
        False, "Analyse the pictures in folders, too. A picture that is named itself is always analysed.", kind="flag"
    )
    sequence: bool = _option(
        False,
        "Analyse numbered pictures (left_001.png, left_002.png) as one video that shows `fps` of them a second.",
        kind="flag",
    )
    fps: float | None = _option(
        None,
        "Frames per second to analyse, by their times; not together with `every`. Of a sequence: its rate.",
        kind="number",
        above=0,
        default_text="every frame",
    )
    every: int = _option(1, "Analyse every n-th frame.", kind="whole", least=1)
    min_face: str | int = _option(
        "20",
        "Smallest face to detect: its side in pixels, or 5% of the frame's shorter side. Larger is faster.",
        kind="pixels_or_share",
    )
    rotate: Rotation | None = _option(  # noqa: RUF009 - it is dataclasses.field
        None,
        "Turn frames clockwise by these degrees before faces are detected, for people who lie on their side; auto takes"
        " the turn in which a few frames show most upright faces.",
        choices=ROTATIONS,
    )
    stream: str | int | None = _option(
        None,
        "Number of the video stream to analyse, from 0, in files with several (screen and camera); all: each of them."
        " `mfer inspect` lists them; cover pictures are not counted.",
        kind="number_or_all",
        default_text="the one that players show",
    )
    detector: str = _option(DEFAULT_DETECTOR, "The face detector.", choices=tuple(DETECTORS))
    detect: DetectMode = _option(  # noqa: RUF009
        "tracked",
        "tracked detects at intervals and follows faces in between; exact detects on every frame.",
        choices=DETECT_MODES,
    )
    detect_every_s: float = _option(
        1.0,
        "Seconds between two detections of `tracked`; every other one skips faces below twice `--min-face`. After a cut"
        " or a lost face it detects sooner.",
        kind="number",
        flag="--detect-every",
        least=0,
    )
    runtime: str = _option(
        "auto",
        "Runtime of the model: auto is PyTorch on a GPU, on a CPU ONNX Runtime in int8 where the network allows it.",
        choices=RUNTIMES,
    )
    device: str = _option("auto", "auto, cpu, cuda or cuda:N.")
    decoder: str = _option(
        "auto",
        "auto is pyav, and pillow for pictures. decord, and torchcodec, which can decode on a GPU, read only files that"
        " a scan verified.",
        choices=("auto", *DECODERS),
    )
    workers: int | None = _option(
        None,
        "Videos to analyse at a time, each in its own process.",
        kind="whole",
        least=1,
        default_text="cores; with ray, all of the cluster's",
    )
    networks: str = _option(
        "auto",
        "own: networks in each worker; shared: in one inference server; auto: shared on a GPU, else own.",
        choices=NETWORKS,
    )
    segment_s: float = _option(
        300.0,
        "Seconds of video per commit, which is what a crash can lose. Another length is another analysis.",
        kind="number",
        flag="--segment",
        above=0,
    )
    stall_s: float = _option(
        120.0,
        "Seconds without progress after which a worker is killed and its video tried once more.",
        kind="number",
        flag="--stall",
        above=0,
    )
    memory_mb: int | None = _option(
        None,
        "Memory in MB at which a worker is killed.",
        kind="whole",
        least=1,
        default_text="80% of the machine's, divided among the workers",
    )
    engine: str = _option(
        "local",
        "ray: a Ray cluster, which divides long videos by segments; see docs/scaling.md.",
        choices=ENGINES,
    )
    ray_address: str | None = _option(
        None, "The Ray cluster: auto, or HOST:PORT.", default_text="a new one on this machine"
    )

    def run(self, paths: Sequence[str], lake: str) -> FolderRun:
        """What to analyse and how. Raises ConfigError for what is not allowed."""
        for option in analysis_options():
            number = getattr(self, option.name)
            if option.kind == "number" and number is not None and not math.isfinite(number):
                limit = f"above {option.above}" if option.least is None else f"from {option.least} on"
                raise ConfigError(f"{option.flag} is {number}; allowed: numbers {limit}")
        settings = AnalysisSettings(
            every=self.every,
            fps=self.fps,
            rotate=self.rotate,
            detector=DetectorSettings(
                name=self.detector,
                mode=self.detect,
                interval_s=self.detect_every_s,
                **parse_min_face(str(self.min_face)),  # type: ignore[arg-type]
            ),
            decoder=self.decoder,
            segment_s=self.segment_s,
        )
        return FolderRun(
            tuple(paths),
            lake,
            model=self.model,
            device=self.device,
            workers=self.workers or (n_cores() if self.engine == "local" else sys.maxsize),
            settings=settings,
            runtime=self.runtime,
            limits=ProcessLimits(
                progress_s=self.stall_s, open_s=min(self.stall_s, ProcessLimits.open_s), memory_mb=self.memory_mb
            ),
            engine=self.engine,
            ray_address=self.ray_address,
            networks=self.networks,
            exclude=tuple(self.exclude),
            stream=_stream(self.stream),
            pictures=self.pictures,
            sequence=self.sequence,
        )


def _stream(chosen: str | int | None) -> int | Literal["all"] | None:
    """The stream that a person chose; FolderRun refuses what is none."""
    return int(chosen) if isinstance(chosen, str) and chosen.isdecimal() else chosen  # type: ignore[return-value]


def analysis_options() -> list[Option]:
    """Every option, in the order of the help text."""
    return [
        Option(
            name=each.name,
            default=each.default,
            **{**each.metadata, "flag": each.metadata["flag"] or f"--{each.name.replace('_', '-')}"},
        )
        for each in dataclasses.fields(AnalysisOptions)
    ]
