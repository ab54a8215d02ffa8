"""Tracks to people: average linkage of their embeddings, under the condition that some cannot be one person."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

__all__ = ["deciding_distances", "join", "mean_distances"]


def mean_distances(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray, of: int) -> np.ndarray:
    """From one group of faces to G groups, float64 [G]: the root of the mean squared distance over all pairs of faces.

    Args:
        sums: float64 [G,D], the sum of each group's embeddings.
        squares: float64 [G], the sum of their squared lengths.
        counts: int64 [G], how many they are.
        of: the one group.
    """
    means = sums / counts[:, None]
    squared = squares / counts + squares[of] / counts[of] - 2 * means @ means[of]
    return np.sqrt(np.maximum(squared, 0))


def _sums(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``sums``, ``squares`` and ``counts`` of groups of embeddings."""
    sums = np.stack([np.asarray(faces, np.float64).sum(0) for faces in groups])
    squares = np.array([float((np.asarray(faces, np.float64) ** 2).sum()) for faces in groups])
    return sums, squares, np.array([len(faces) for faces in groups])


def deciding_distances(
    embeddings: Sequence[np.ndarray], person: np.ndarray, apart: Collection[tuple[int, int]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """What each of T tracks was decided by: bool [T], whether others are the same person, and float64 [T], the mean
    distance to those others, or to the nearest person that it could have been (infinite where there is none)."""
    numbers, group = np.unique(person, return_inverse=True)
    members = [[embeddings[i] for i in np.flatnonzero(group == g).tolist()] for g in range(len(numbers))]
    sums, squares, counts = _sums([np.concatenate(faces) for faces in members])
    enemies: list[set[int]] = [set() for _ in numbers]
    for a, b in apart:
        enemies[group[a]].add(int(group[b]))
        enemies[group[b]].add(int(group[a]))
    has_others = np.bincount(group)[group] > 1
    distance = np.full(len(person), np.inf)
    for i, g in enumerate(group.tolist()):
        if has_others[i]:
            own = _sums([embeddings[i]])
            rest = (sums[g] - own[0][0], squares[g] - own[1][0], counts[g] - own[2][0])
            both_sums, both_squares, both_counts = (
                np.stack([mine[0], theirs]) for mine, theirs in zip(own, rest, strict=True)
            )
            distance[i] = mean_distances(both_sums, both_squares, both_counts, 0)[1]
        else:
            away = mean_distances(sums, squares, counts, g)
            away[[g, *enemies[g]]] = np.inf
            distance[i] = away.min()
    return has_others, distance


def join(
    embeddings: Sequence[np.ndarray],
    limit: float,
    *,
    same: Collection[tuple[int, int]] = (),
    apart: Collection[tuple[int, int]] = (),
) -> np.ndarray:
    """Join tracks to people, int64 [T]: the person of each track, which is the smallest number among its tracks.

    The two groups of tracks that are nearest to each other become one, again and again, until no two are within the
    limit. Their distance is ``mean_distances``: it needs only a sum per group, so memory grows with the tracks and not
    with their pairs.

    Args:
        embeddings: float [F,D] of each of T tracks, F >= 1 of its faces.
        limit: distance up to which two groups are one person.
        same: pairs of tracks that are one person whatever they look like; these win over ``apart``.
        apart: pairs that are not.
    """
    n = len(embeddings)
    person = np.arange(n)
    if n == 0:
        return person
    sums, squares, counts = _sums(embeddings)
    enemies: list[set[int]] = [set() for _ in range(n)]
    for a, b in apart:
        enemies[a].add(b)
        enemies[b].add(a)
    alive = np.ones(n, bool)

    def unite(a: int, b: int) -> None:
        """Group b becomes part of group a; a < b."""
        sums[a] += sums[b]
        squares[a] += squares[b]
        counts[a] += counts[b]
        alive[b] = False
        person[person == b] = a
        for other in enemies[b]:
            enemies[other].discard(b)
            enemies[other].add(a)
        enemies[a] = (enemies[a] | enemies[b]) - {a, b}

    for a, b in sorted(same):
        one, other = sorted((int(person[a]), int(person[b])))
        if one != other:
            unite(one, other)

    nearest = np.full(n, -1)
    distance = np.full(n, np.inf)

    def look(group: int) -> None:
        """Find the nearest group of those with a higher number, which may be joined to this one."""
        away = mean_distances(sums, squares, counts, group)
        away[: group + 1] = np.inf
        away[~alive] = np.inf
        away[list(enemies[group])] = np.inf
        nearest[group] = int(away.argmin())
        distance[group] = away[nearest[group]]

    for group in np.flatnonzero(alive):
        look(int(group))
    while True:
        a = int(distance.argmin())
        if not distance[a] <= limit:
            return person
        b = int(nearest[a])
        unite(a, b)
        distance[b] = np.inf
        away = mean_distances(sums, squares, counts, a)
        for group in np.flatnonzero(alive[:a]):
            if nearest[group] in (a, b):
                look(int(group))
            elif away[group] < distance[group] and int(group) not in enemies[a]:
                nearest[group], distance[group] = a, away[group]
        for group in np.flatnonzero(alive[a:b]) + a:
            if group == a or nearest[group] == b:
                look(int(group))
