from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipelines.profile import cpu_seconds, reset_stages, stage, staged
from pipelines.video.prefetch import prefetch


def test_items_come_in_order() -> None:
    assert list(prefetch(range(100), 3)) == list(range(100))
    assert list(prefetch([], 1)) == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    made: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    with closing(prefetch(items(), 2)) as source:
        assert next(source) == 0
        assert third.wait(10)  # one is taken, two wait in the queue, and one is being offered
        assert made == [0, 1, 2, 3]
        assert list(source) == list(range(1, 10))


def test_what_fails_ahead_is_raised_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    source = prefetch(items(), 4)
    assert next(source) == 1
    with pytest.raises(ValueError, match="the second"):
        next(source)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    source = prefetch(iter(int, 1), 2)  # endless
    assert next(source) == 0
    source.close()
    assert threading.active_count() == before


def test_time_within_a_stage_is_counted_once() -> None:
    def work() -> int:
        return sum(i * i for i in range(200_000))

    reset_stages()
    with stage("outer"):
        with stage("inner"):
            for _ in range(5):
                work()
        work()
    seconds = cpu_seconds()
    assert set(seconds) == {"start", "outer", "inner", "other"}
    assert 0 < seconds["outer"] < seconds["inner"]
    assert list(staged("making", [1, 2])) == [1, 2]
    assert "making" in cpu_seconds()
    reset_stages()
    assert set(cpu_seconds()) == {"start", "other"}
