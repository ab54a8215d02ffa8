"""Nobody is in train and test, and what was once a test stays one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.learning.split import split_videos, video_mark

NAMES = ("Ann", "Bob", "Cy", "Di")
lakes = st.dictionaries(
    st.integers(0, 10**6).map(lambda n: f"{n:016x}"),
    st.sets(st.sampled_from(NAMES), max_size=2),
    min_size=1,
    max_size=30,
)


def marks(video_ids: frozenset[str]) -> set[str]:
    return {video_mark(video_id) for video_id in video_ids}


@settings(max_examples=60, deadline=None)
@given(lakes)
def test_every_video_has_one_side_and_a_named_person_is_on_one_side(persons: dict[str, set[str]]) -> None:
    split = split_videos(persons)
    sides = (split.train, split.test, split.left_out)
    assert sorted(video_id for side in sides for video_id in side) == sorted(persons)
    shown = [{name for video_id in side for name in persons[video_id]} for side in sides[:2]]
    assert not shown[0] & shown[1]
    assert not split.left_out  # nothing was learned or tested before


@settings(max_examples=60, deadline=None)
@given(lakes, lakes)
def test_a_test_stays_a_test_and_what_was_learned_is_never_tested(
    before: dict[str, set[str]], more: dict[str, set[str]]
) -> None:
    """Between two refreshes videos come, and people are named in old ones."""
    first = split_videos(before)
    later = before | more
    second = split_videos(later, marks(first.test), marks(first.train))
    assert first.test <= second.test
    assert not first.train & second.test
    shown = [{name for video_id in side for name in later[video_id]} for side in (second.train, second.test)]
    # a name that is given later may join a video that was tested and one that was tested too, never one to learn from
    assert not shown[0] & shown[1]


def test_one_video_in_five_is_for_the_test_and_the_choice_is_always_the_same() -> None:
    persons: dict[str, set[str]] = {f"{n:016x}": set() for n in range(4000)}
    split = split_videos(persons)
    assert 0.17 < len(split.test) / len(persons) < 0.23
    assert split_videos(dict(reversed(persons.items()))) == split
    assert split_videos({f"{n:016x}": set() for n in range(100)}).test <= split.test


def test_a_mark_tells_nothing_of_the_video() -> None:
    assert video_mark("0123456789abcdef") == video_mark("0123456789abcdef") != video_mark("0123456789abcdee")
    assert "0123456789abcdef" not in video_mark("0123456789abcdef")
