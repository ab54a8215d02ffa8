"""Where recordings were joined end to end: the clock begins anew there, and the times go on as players show them.

A recording that begins earlier than the one before it ended makes times fall. One that begins later makes them jump,
which a recording may do by itself too: pauses and losses are gaps. So a jump is a seam only in MPEG-TS and MPEG-PS, at
a key frame, over more than ``JUMP_S`` (as in ffmpeg) and ten usual steps, and only if no sound fills it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

__all__ = ["CLOCKED", "JUMP_S", "PARSED_AHEAD", "REORDERED_PACKETS", "clock_step", "continue_times"]

#: Containers whose times are a clock of 33 bits at 90 kHz, which wraps after 26.5 hours (ISO/IEC 13818-1, 2.4.3.7).
CLOCKED = ("mpegts", "mpeg")
#: A longer jump of the clock is a seam: ffmpeg's ``dts_delta_threshold``.
JUMP_S = 10.0
#: Packets among which the first in order of presentation is: codecs reorder at most 16 frames.
REORDERED_PACKETS = 32
_CLOCK_TICKS = 1 << 33
_JUMP_TICKS = round(JUMP_S * 90_000)
#: Time-lapse recordings have long steps everywhere: a jump is longer than so many.
_JUMP_STEPS = 10
#: libav hands a packet of the picture on once the next one or two have begun, after the sound between them, and marks a
#: loss in a transport stream on the one that its parser holds then.
PARSED_AHEAD = 2

_Ticks = TypeVar("_Ticks", int, np.ndarray)


def clock_step(ticks: _Ticks) -> _Ticks:
    """The difference of two times of a clock that wraps: the shorter way round."""
    return (ticks + _CLOCK_TICKS // 2) % _CLOCK_TICKS - _CLOCK_TICKS // 2


def continue_times(
    *,
    container: str,
    pts: np.ndarray,
    dts: np.ndarray,
    duration: np.ndarray,
    is_key: np.ndarray,
    is_hidden: np.ndarray,
    offset: np.ndarray,
    heard: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Let the times of each recording go on where those before it ended.

    Args:
        container: libav's name of it.
        pts, dts, duration: int64 [P] ticks, in decoding order.
        is_key, is_hidden: bool [P]; hidden packets show nothing.
        offset: int64 [P], in bytes: where a packet begins; -1 if that is inside a packet of the container, which states
            the time of its first one only.
        heard: int64 [P], ticks: how much sound came before each.

    Returns:
        New ``pts`` and ``dts``, and at which packet each recording after the first begins.
    """
    pts, dts, shown = pts.copy(), dts.copy(), ~is_hidden
    least = np.full(len(dts), np.iinfo(np.int64).max)  # what is a jump to each packet
    if container in CLOCKED and len(dts) > 1:
        steps = clock_step(np.diff(dts))
        dts[1:] = dts[0] + np.cumsum(steps)
        pts = dts + clock_step(pts - dts)
        before = np.maximum(np.arange(len(dts)) - 1 - PARSED_AHEAD, 0)
        least = max(_JUMP_TICKS, _JUMP_STEPS * int(np.median(steps))) + heard - heard[before]
    starts, shifts = [0], [0]
    for seam in (np.flatnonzero((np.diff(dts) < 0) | (np.diff(dts) > least[1:])) + 1).tolist():
        # two packets on either side, so that a single one with a wrong time is no seam
        last, first = dts[max(seam - 2, 0) : seam], dts[seam : seam + 2]
        jumps = first.min() - last.max() > least[seam]
        if not jumps and first.max() >= last.min():
            continue
        start = _start(seam, pts, dts, is_key, offset)
        if jumps and not is_key[start]:
            continue
        ended = starts[-1] + np.flatnonzero(shown[starts[-1] : start])
        after = start + np.flatnonzero(shown[start : start + REORDERED_PACKETS])
        is_lent = (pts[ended] - dts[ended] > _JUMP_TICKS) & jumps
        lent, ended = ended[is_lent], ended[~is_lent]
        if not (len(ended) and len(after)):
            continue
        end = _end(pts[ended], duration[ended])
        if len(lent):  # to a last packet that states no time libav gives one of the next recording
            pts[lent] = end
            ended = np.append(ended, lent)
            end = _end(pts[ended], duration[ended])
        dts[start:seam] = dts[seam] - duration[start:seam]
        starts.append(start)
        shifts.append(end + shifts[-1] - int(pts[after].min()))
    shift = np.repeat(shifts, np.diff([*starts, len(pts)]))
    return pts + shift, dts + shift, starts[1:]


def _end(pts: np.ndarray, duration: np.ndarray) -> int:
    """When the last frame ends; what libav takes from the codec for a variable rate may be next to nothing."""
    last = int(pts.argmax())
    step = int(np.median(np.diff(np.sort(pts)))) if len(pts) > 1 else 0
    length = int(duration[last])
    return int(pts[last]) + (length if 2 * length >= step else step)


def _start(seam: int, pts: np.ndarray, dts: np.ndarray, is_key: np.ndarray, offset: np.ndarray) -> int:
    """Where the recording really begins whose decoding times begin at ``seam``: its first packet may state only when it
    is shown, and libav goes on to count its decoding time from the recording before."""
    first = seam - 1
    is_first = is_key[first] and offset[first] >= 0 and abs(pts[first] - dts[seam]) < abs(pts[first] - dts[first])
    return first if is_first else seam
