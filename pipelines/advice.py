"""What a profile means: the work that bounds an analysis, and the setting that would help most."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.settings import AnalysisSettings

__all__ = ["advice"]

#: What takes the time, in words, and the stages of ``pipelines/profile.py`` that it consists of.
_WORK = {
    "start": ("the start of worker processes", ("start",)),
    "read": ("reading the files and their packets", ("hash", "scan")),
    "decode": ("decoding", ("decode",)),
    "detect": ("full detections of faces", ("detect", "rotate")),
    "follow": ("following faces from frame to frame", ("follow", "track", "cuts")),
    "score": ("aligning and scoring faces", ("align", "score", "quality", "mouth")),
    "write": ("writing rows", ("write", "commit")),
    "networks": ("the inference server's networks", ("networks",)),
}


def advice(cpu_s: Mapping[str, float], settings: AnalysisSettings) -> str:
    """One sentence that names the bound of a run, and one about what would help most.

    Args:
        cpu_s: CPU seconds by stage.
        settings: of the run; what it already uses is not recommended.
    """
    total_s = sum(cpu_s.values())
    if not total_s:
        return "Nothing was analysed, so nothing bounds it."
    share = {name: sum(cpu_s.get(stage, 0.0) for stage in stages) / total_s for name, (_, stages) in _WORK.items()}
    bound = max(share, key=lambda name: share[name])
    return f"Bound by {_WORK[bound][0]} ({bound}): {share[bound]:.0%} of the CPU time. {_remedy(bound, settings)}"


def _remedy(bound: str, settings: AnalysisSettings) -> str:
    detector = settings.detector
    samples_all = settings.every == 1 and settings.fps is None
    fewer_frames = f"Take fewer frames: {'--fps 5' if samples_all else 'a lower --fps, or a higher --every'}."
    if bound == "start":
        return "Give a run more videos, or longer ones: its processes are kept for the next video."
    if bound == "decode":
        return (
            "Frames in between have to be decoded too, so --fps helps little: smaller copies of the videos are decoded"
            " faster."
        )
    if bound == "detect" and detector.mode == "exact":
        return "Detect on few frames and follow faces in between: --detect tracked."
    if bound == "detect" and detector.min_face_share == 0 and detector.min_face_px <= 20:
        return "Look for larger faces only: --min-face 5%; the time falls with the square of the smallest face."
    if bound == "detect":
        every = f"--detect-every {2 * detector.interval_s:g}"
        return f"Detect less often: {every}; faces that come and go in between are lost."
    if bound in ("follow", "score", "networks"):
        return fewer_frames
    if bound == "write":
        return "Commits cost as much for short videos as for long ones: give fewer and longer videos, or a faster disk."
    return "A faster disk, or files nearer to the machine, would help."
