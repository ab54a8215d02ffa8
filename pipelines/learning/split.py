"""Split videos into training and test so that nobody is in both and a test video is never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from storage.identity import content_of_video

__all__ = ["Split", "split_videos", "video_mark"]

#: One group of videos in five is for the test.
_TEST_SHARE = 0.2
_MARK_DIGITS = 16


@dataclass(frozen=True)
class Split:
    """video_ids for training, for testing, and those left out because their people are on the other side."""

    train: frozenset[str]
    test: frozenset[str]
    left_out: frozenset[str]


def video_mark(video_id: str) -> str:
    """A name for a video in a model's card: erasing the video from the lake must not leave its id behind there."""
    return hashlib.sha256(f"video/{video_id}".encode()).hexdigest()[:_MARK_DIGITS]


def split_videos(
    persons: Mapping[str, Collection[str]], tested: Collection[str] = (), learned: Collection[str] = ()
) -> Split:
    """Divide videos, whole groups at a time: videos that show the same named person are one group,
    and so are the streams of one file.

    A hash of the group's first name, or of the video where nobody is named, decides. What earlier models did decides
    before it: a video that one was tested on stays in the test, and its group is learned from by none; a video that one
    has learned is never tested on.

    Args:
        persons: video_id to the names that people gave in it; a video without names has an empty collection.
        tested, learned: ``video_mark`` of videos that earlier models were tested on or trained with.
    """
    train, test, left_out = set(), set(), set()
    for group in _groups(persons):
        names = sorted({name for video_id in group for name in persons[video_id]})
        key = f"person/{names[0]}" if names else f"video/{min(group)}"
        once_tested = {video_id for video_id in group if video_mark(video_id) in tested}
        once_learned = {video_id for video_id in group if video_mark(video_id) in learned} - once_tested
        if once_tested or (_is_test(key) and len(once_learned) < len(group)):
            fresh = set() if once_tested else group - once_learned
            test |= once_tested | fresh
            left_out |= group - once_tested - fresh
        else:
            train |= group
    return Split(frozenset(train), frozenset(test), frozenset(left_out))


def _is_test(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(f"test/{key}".encode()).digest()[:4]) < _TEST_SHARE * 2**32


def _groups(persons: Mapping[str, Collection[str]]) -> list[set[str]]:
    """Videos joined by names, and the streams of one file, as disjoint sets."""
    group_of: dict[str, set[str]] = {video_id: {video_id} for video_id in persons}
    first_with: dict[tuple[str, str], str] = {}
    for video_id in sorted(persons):
        names = [("person", name) for name in sorted(persons[video_id])]
        for shared in (("file", content_of_video(video_id)), *names):
            other = first_with.setdefault(shared, video_id)
            joined = group_of[video_id] | group_of[other]
            for member in joined:
                group_of[member] = joined
    unique = {id(group): group for group in group_of.values()}
    return sorted(unique.values(), key=min)
