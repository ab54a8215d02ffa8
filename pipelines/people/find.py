"""``mfer people find``: who is the same person in which tracks of a lake, from the videos themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np

from mfer.pretrained.files import DLIB_SHA256
from pipelines.errors import VideoError
from pipelines.people.embed import MIN_FACE_PX, embed_tracks
from pipelines.people.linkage import deciding_distances, join
from pipelines.people.network import load_identity
from pipelines.remote import local_copy
from pipelines.scoring.onnx import OnnxNet
from storage.annotations.people import (
    FoundTrack,
    TrackFaces,
    TrackKey,
    WhatPeopleSaid,
    faces_of_tracks,
    found_tracks,
    keep_embeddings,
    kept_embeddings,
    person_id_of,
    propose,
    what_people_said,
)
from storage.delta.relations import read_errors, rows_of
from storage.identity import stream_of_video
from storage.lake import Lake
from storage.originals import FILES_SQL, find_place
from storage.sql.selection import ChosenVideo, choose_videos
from storage.sql.views import connect

__all__ = ["ACROSS_LIMIT", "NETWORK", "WITHIN_LIMIT", "FoundPeople", "find_people"]

NETWORK = f"dlib_face_recognition_resnet_model_v1@{DLIB_SHA256[:12]}"
#: Mean distances up to which tracks are one person; docs/people.md has the errors. Over a lake there are many more
#: pairs to be wrong about, and two people who are joined do more harm than one who is parted.
WITHIN_LIMIT, ACROSS_LIMIT = 0.58, 0.52
#: The distance at which two tracks are as likely one person as two, and how fast that changes: a logistic curve through
#: the same pairs.
_EVEN, _PER_UNIT = 0.60, 40.0
_CONFIDENCE_DIGITS = 3
#: No two faces of one person in one track were so far apart: such a track goes on over a cut that was missed.
_MIXED_LIMIT = 0.70

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FoundPeople:
    """What ``find_people`` did: videos that were looked at or were done before, tracks that were embedded and how
    many people they show, tracks without a usable face, tracks that seem to show two people, edits written and taken
    back, and videos that could not be read, each with the reason."""

    n_videos: int
    n_done_before: int
    n_tracks: int
    n_people: int
    n_unclear: int
    n_mixed: int
    n_written: int
    n_taken_back: int
    failed: tuple[tuple[str, str], ...]


def find_people(
    lake: Lake,
    names: Sequence[str | Path] = (),
    *,
    across: bool = False,
    keep: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> FoundPeople:
    """Propose which tracks show one person, as edits that the views honour; track rows stay as they are.

    Tracks that share a frame are two people, and what people said of a track holds. A video whose tracks were
    joined before is passed over, unless ``across``. Killed and run again it goes on with the next video; ``across`` it
    begins again, but for embeddings that were kept. The answer does not depend on the order of names.

    Args:
        lake: where the tracks are; their videos must still be where they were analysed.
        names: which videos, see ``choose_videos``; none: all.
        across: join tracks over all these videos, not only within each.
        keep: store the embeddings; else they are gone when this returns.
        progress: called with (stage, videos done, videos in all).

    Raises:
        LakeError: ``unknown_video``, or the lake cannot be read or written.
        ConfigError: the network's file is missing; the message says what to install.
    """
    with read_errors(lake.location), connect(lake, only=["scores", "videos"]) as con:
        videos = sorted(choose_videos(con, names), key=lambda video: video.video_id)
        files = defaultdict(list)
        for row in rows_of(con, FILES_SQL).to_pylist():
            files[row["video_id"]].append(row)
        statements, before = what_people_said(lake), found_tracks(lake)
        identity = lru_cache(maxsize=1)(load_identity)
        embeddings: dict[TrackKey, np.ndarray] = {}
        apart: set[tuple[TrackKey, TrackKey]] = set()
        failed: list[tuple[str, str]] = []
        looked_at: list[str] = []
        n_done = n_unclear = n_mixed = 0
        counts = np.zeros(4, int)
        for done, video in enumerate(videos):
            progress(f"people: {video.file_name}", done, len(videos))
            tracks, sharing, n_without = faces_of_tracks(con, video, MIN_FACE_PX)
            if not across and tracks and all(track.key in before for track in tracks):
                n_done += 1
                continue
            try:
                found = _embed(lake, video, tracks, files[video.video_id], identity, keep)
            except VideoError as error:
                failed.append((video.path, f"{error.code}: {error.message}"))
                continue
            n_unclear += n_without + len(tracks) - len(found)
            mixed = [key for key, faces in found.items() if _spread(faces) > _MIXED_LIMIT]
            n_mixed += len(mixed)
            found = {key: faces for key, faces in found.items() if key not in mixed}
            looked_at.append(video.video_id)
            if across:
                embeddings |= found
                apart |= sharing
            else:
                counts += _propose(lake, found, sharing, statements, [video.video_id])
    if across and looked_at:
        progress("people: joining", len(videos), len(videos))
        counts += _propose(lake, embeddings, apart, statements, looked_at)
    progress("people", len(videos), len(videos))
    n_tracks, n_people, n_written, n_taken_back = counts.tolist()
    return FoundPeople(
        n_videos=len(looked_at),
        n_done_before=n_done,
        n_tracks=n_tracks,
        n_people=n_people,
        n_unclear=n_unclear,
        n_mixed=n_mixed,
        n_written=n_written,
        n_taken_back=n_taken_back,
        failed=tuple(failed),
    )


def _embed(
    lake: Lake,
    video: ChosenVideo,
    tracks: Sequence[TrackFaces],
    named: Sequence[dict[str, object]],
    identity: Callable[[], OnnxNet],
    keep: bool,
) -> dict[TrackKey, np.ndarray]:
    """Embeddings float32 [N,D] of each track of which a face could be read; VideoError where the video is gone."""
    if not tracks:
        return {}
    place = find_place(named, video.video_id)
    if place is None:
        raise VideoError("missing", "open", video.path, "its file is gone or has changed since it was analysed")
    key = (video.video_id, video.faces_id)
    known = kept_embeddings(lake, key, NETWORK)
    with local_copy(place) as path:
        found = embed_tracks(path, tracks, identity, known, stream_of_video(video.video_id))
    track_of = {track.key[2]: track for track in tracks}
    if keep:
        fresh = {}
        for number, (rows, embeddings) in found.items():
            places = track_of[number].frame_index[rows], track_of[number].face_index[rows]
            new = [i for i, at in enumerate(zip(*(part.tolist() for part in places), strict=True)) if at not in known]
            if new:
                fresh[number] = (places[0][new], places[1][new], embeddings[new])
        keep_embeddings(lake, key, NETWORK, fresh)
    return {track_of[number].key: embeddings for number, (_, embeddings) in found.items()}


def _propose(
    lake: Lake,
    embeddings: dict[TrackKey, np.ndarray],
    apart: Iterable[tuple[TrackKey, TrackKey]],
    statements: WhatPeopleSaid,
    video_ids: Sequence[str],
) -> np.ndarray:
    """Join tracks within each video, then over all of them, and write what was found; int64 [4]: tracks, people, edits
    written and taken back."""
    keys = sorted(embeddings)
    place = {key: i for i, key in enumerate(keys)}
    faces = [embeddings[key] for key in keys]
    same, different = _conditions(keys, statements)
    different |= {(place[a], place[b]) for a, b in apart if a in place and b in place}
    same |= _same_within(keys, faces, same, different)
    person = join(faces, ACROSS_LIMIT, same=same, apart=different)
    found = []
    confidence = _confidence(*deciding_distances(faces, person, different)) if keys else np.zeros(0)
    for number in np.unique(person).tolist():
        members = [keys[i] for i in np.flatnonzero(person == number)]
        accepted = [statements.persons[key] for key in members if key in statements.persons]
        person_id = min(accepted) if accepted else person_id_of(members)
        found += [FoundTrack(key, person_id, float(confidence[place[key]])) for key in members]
    n_written, n_taken_back = propose(lake, found, video_ids)
    return np.array([len(keys), len(set(person.tolist())), n_written, n_taken_back])


def _same_within(
    keys: Sequence[TrackKey], faces: Sequence[np.ndarray], same: set[tuple[int, int]], different: set[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Pairs of places of tracks that are one person within their video."""
    videos: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        videos[key[0]].append(i)
    place = {i: k for own in videos.values() for k, i in enumerate(own)}

    def inside(pairs: set[tuple[int, int]]) -> dict[str, set[tuple[int, int]]]:
        found: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for a, b in pairs:
            if keys[a][0] == keys[b][0]:
                found[keys[a][0]].add((place[a], place[b]))
        return found

    same_in, different_in = inside(same), inside(different)
    joined = set()
    for video_id, own in videos.items():
        conditions = {"same": same_in[video_id], "apart": different_in[video_id]}
        within = join([faces[i] for i in own], WITHIN_LIMIT, **conditions)
        joined |= {(own[person], own[i]) for i, person in enumerate(within.tolist()) if person != i}
    return joined


def _spread(faces: np.ndarray) -> float:
    """The largest distance between two faces of a track."""
    return float(np.linalg.norm(faces[:, None] - faces[None], axis=2).max())


def _confidence(has_others: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """How sure each track's person is, 0..1: a logistic curve of the distance that decided."""
    same = 1 / (1 + np.exp(np.clip(_PER_UNIT * (distance - _EVEN), -50, 50)))
    return np.round(np.where(has_others, same, 1 - same), _CONFIDENCE_DIGITS)


def _conditions(
    keys: Sequence[TrackKey], statements: WhatPeopleSaid
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """What people said, as pairs of places in ``keys`` that are one person, and pairs that are not.

    Merges lead over tracks that are not among the keys, too. Tracks with one name or one accepted person are one
    person; with two names, or two accepted persons, they are two; and whoever is alone is nobody else.
    """
    root: dict[TrackKey, TrackKey] = {}

    def find(key: TrackKey) -> TrackKey:
        while (above := root.get(key, key)) != key:
            key = above
        return key

    same_label: dict[tuple[str, str], TrackKey] = {}
    labelled = [
        (key, (kind, label)) for kind in ("names", "persons") for key, label in getattr(statements, kind).items()
    ]
    pairs = [*statements.merges, *((key, same_label.setdefault(label, key)) for key, label in labelled)]
    for a, b in pairs:
        one, other = sorted((find(a), find(b)))
        root[other] = one
    groups: dict[TrackKey, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[find(key)].append(i)
    same = {(places[0], i) for places in groups.values() for i in places[1:]}
    labels: dict[str, dict[TrackKey, set[str]]] = {"names": defaultdict(set), "persons": defaultdict(set)}
    for key, (kind, label) in labelled:
        labels[kind][find(key)].add(label)
    different = {
        (groups[a][0], groups[b][0])
        for of_kind in labels.values()
        for a, b in combinations(sorted(group for group in of_kind if group in groups), 2)
        if not of_kind[a] & of_kind[b]
    }
    for alone in {find(key) for key in statements.alone} & groups.keys():
        different |= {(groups[alone][0], places[0]) for group, places in groups.items() if group != alone}
    return same, different
