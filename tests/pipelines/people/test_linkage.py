"""Tracks to people by average linkage, against the definition computed pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pipelines.people.linkage import deciding_distances, join


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(2).mean()))


def join_slowly(tracks: list[np.ndarray], limit: float, apart: set[tuple[int, int]]) -> list[int]:
    """The nearest two groups that may be joined become one until none are within the limit; all pairs each time."""
    groups = [[i] for i in range(len(tracks))]
    while True:
        near = [
            (distance(*(np.concatenate([tracks[i] for i in group]) for group in pair)), pair)
            for pair in combinations(groups, 2)
            if not any((i, j) in apart or (j, i) in apart for i in pair[0] for j in pair[1])
        ]
        if not near or min(near)[0] > limit:
            return [min(next(group for group in groups if i in group)) for i in range(len(tracks))]
        _, (one, other) = min(near)
        groups = [group for group in groups if group not in (one, other)] + [one + other]


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_those_of_the_definition_and_their_distances_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = rng.normal(0, 1, (5, 6))
    tracks = [people[rng.integers(5)] + rng.normal(0, 0.35, (rng.integers(1, 4), 6)) for _ in range(24)]
    apart = {tuple(sorted(rng.choice(24, 2, replace=False).tolist())) for _ in range(12)}
    person = join(tracks, 1.6, apart=apart)
    assert person.tolist() == join_slowly(tracks, 1.6, apart)
    assert 1 < len(set(person.tolist())) < 24
    has_others, decided = deciding_distances(tracks, person, apart)
    for i, track in enumerate(tracks):
        rest = [tracks[j] for j in range(24) if person[j] == person[i] and j != i]
        assert bool(rest) == has_others[i]
        if rest:
            assert decided[i] == pytest.approx(distance(track, np.concatenate(rest)))


def test_who_is_said_to_be_one_is_and_who_shares_a_frame_is_not() -> None:
    near, far = np.zeros((2, 3)), np.full((2, 3), 9.0)
    tracks = [near, near, far, near]
    assert join(tracks, 1.0).tolist() == [0, 0, 2, 0]
    assert join(tracks, 1.0, apart={(0, 1)}).tolist() == [0, 1, 2, 0]
    assert join(tracks, 1.0, same={(2, 1)}, apart={(1, 2), (0, 2)}).tolist() == [0, 1, 1, 0]
    assert join([], 1.0).tolist() == []
