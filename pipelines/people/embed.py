"""The best few faces of each track of a video, embedded by a face network; only these frames are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mfer.card import IDENTITY_CROP
from mfer.crop import align_matrix, warp_faces
from pipelines.heartbeat import heartbeat
from pipelines.scoring.onnx import OnnxNet
from pipelines.video.decoders import DEFAULT_READ, load_decoder
from pipelines.video.pyav import key_distance, read_few
from pipelines.video.scan import Video, open_video
from storage.annotations.people import TrackFaces

__all__ = ["MIN_FACE_PX", "best_faces", "embed_tracks"]

#: Below this size faces of different people look too much alike (docs/people.md).
MIN_FACE_PX = 40.0
#: A face for each such time that a track is seen, and how many there are at most.
_FACE_PER_S, _MAX_FACES = 3.0, 3
#: Faces that are embedded between two heartbeats.
_BATCH_FACES = 8
#: Beyond this size a face shows the network nothing more.
_LARGE_PX = 120.0
#: Faces this near to the best one of their part of a track are as good: of them the one that costs least is taken.
_AS_GOOD = 0.7


def best_faces(track: TrackFaces, cost: np.ndarray) -> np.ndarray:
    """Which faces of a track stand for it, int64 [N] rising: large, sharp and frontal ones, spread over its time.

    Args:
        track: its faces.
        cost: float [F], what it costs to read each; decides between faces that are about as good.
    """
    left, right, nose = (track.landmarks_px[:, i].astype(np.float64) for i in range(3))
    across = right - left
    length = np.maximum((across**2).sum(1), 1e-6)
    turn = np.abs(((nose - (left + right) / 2) * across).sum(1)) / length * 2  # 0 frontal, 1 the nose below an eye
    sharp = np.sqrt(np.maximum(track.sharpness, 0) / max(float(track.sharpness.max()), 1e-9))
    quality = np.minimum(track.face_px, _LARGE_PX) / _LARGE_PX * sharp * np.clip(1 - turn, 0.05, 1)
    lasts_s = track.time_s[-1] - track.time_s[0]
    n_parts = int(min(_MAX_FACES, 1 + lasts_s / _FACE_PER_S, len(track)))
    part = np.minimum((np.arange(len(track)) * n_parts) // len(track), n_parts - 1)
    chosen = []
    for number in range(n_parts):
        rows = np.flatnonzero(part == number)
        good = rows[quality[rows] >= _AS_GOOD * quality[rows].max()]
        chosen.append(good[np.lexsort((good, -quality[good], cost[good]))[0]])
    return np.array(chosen, np.int64)


def embed_tracks(
    path: str | Path,
    tracks: Sequence[TrackFaces],
    identity: Callable[[], OnnxNet],
    known: Mapping[tuple[int, int], np.ndarray] | None = None,
    stream: int | None = None,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Embed the best faces of each track of one video.

    Args:
        path: the file.
        tracks: of that video.
        identity: gives the network, where it is needed.
        known: embeddings float32 [D] from before, by frame_index and face_index.
        stream: number of the video stream, see ``open_video``.

    Returns:
        By number of the track, which of its faces were embedded, int64 [N], and their embeddings float32 [N,D]; without
        tracks of which no face could be read.

    Raises:
        VideoError: the file cannot be read.
        ConfigError: the network's file is missing.
    """
    video = open_video(path, stream=stream)
    chosen = {track.key[2]: best_faces(track, key_distance(video, track.frame_index)) for track in tracks}
    known = known or {}
    wanted = {
        int(frame)
        for track in tracks
        for frame, face in _places(track, chosen[track.key[2]])
        if (frame, face) not in known
    }
    crops = _read_crops(video, tracks, chosen, wanted)
    embedded = {
        place: known[place] for track in tracks for place in _places(track, chosen[track.key[2]]) if place in known
    }
    fresh = sorted(crops.keys() - known.keys())
    for first in range(0, len(fresh), _BATCH_FACES):
        some = fresh[first : first + _BATCH_FACES]
        embedded |= zip(some, identity()(np.stack([crops[place] for place in some]))[0], strict=True)
        heartbeat()
    found = {}
    for track in tracks:
        rows = chosen[track.key[2]]
        places = _places(track, rows)
        have = [i for i, place in enumerate(places) if place in embedded]
        if have:
            found[track.key[2]] = rows[have], np.stack([embedded[places[i]] for i in have])
    return found


def _places(track: TrackFaces, rows: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(track.frame_index[rows].tolist(), track.face_index[rows].tolist(), strict=True))


def _read_crops(
    video: Video, tracks: Sequence[TrackFaces], chosen: Mapping[int, np.ndarray], wanted: set[int]
) -> dict[tuple[int, int], np.ndarray]:
    """Crops of the chosen faces, uint8 [3,S,S], by frame_index and face_index."""
    faces_in: dict[int, list[tuple[int, np.ndarray]]] = {}
    for track in tracks:
        for row in chosen[track.key[2]].tolist():
            places = faces_in.setdefault(int(track.frame_index[row]), [])
            places.append((int(track.face_index[row]), track.landmarks_px[row]))
    crops: dict[tuple[int, int], np.ndarray] = {}
    index_of = np.array(sorted(wanted), np.int64)
    if video.pictures:
        frames = load_decoder("auto", video).read(video, index_of, DEFAULT_READ)
    else:
        frames = read_few(video, index_of)
    for index, rgb in frames:
        landmarks = np.stack([points for _, points in faces_in[index]])
        matrix = align_matrix(landmarks, IDENTITY_CROP)
        pixels = warp_faces([rgb], np.zeros(len(landmarks), np.int64), matrix, IDENTITY_CROP)
        crops |= {(index, face): pixels[i] for i, (face, _) in enumerate(faces_in[index])}
    return crops
