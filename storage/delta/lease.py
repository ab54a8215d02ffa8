"""A renewable, expiring lock in an object store (put-if-absent).

Only one forget or repair runs at a time. Writers are not stopped, because they hold nothing:
``storage.delta.fence`` does. So a holder that was asleep for longer than its lease can harm no commit.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from storage.delta.object_store import ObjectPath
from storage.errors import LakeError

__all__ = ["EXPIRES_S", "LEASE", "lease"]

#: The object; its name begins with a dot, like everything in a lake that is no table's.
LEASE = ".lease"
#: Age, by the store's clock, at which others may take a lease over; the holder renews it four times as often.
EXPIRES_S = 120


class _Holder:
    """Renews a lease until it is stopped or finds that another process holds it."""

    def __init__(self, place: ObjectPath, tag: dict[str, str], who: str) -> None:
        self._place, self._tag, self._who = place, tag, who
        self.is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        n = 0
        while not self._ended.wait(EXPIRES_S / 4):
            n += 1
            with suppress(OSError):  # a store that is away for a moment: the next time will do
                tag = self._place.exchange(_text(self._who, n), self._tag)
                if tag is None:
                    self.is_lost = True
                    return
                self._tag = tag

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):  # else it runs out by itself
            if not self.is_lost and self._place.exchange(_text(self._who, -1), self._tag) is not None:
                self._place.unlink()


def _text(who: str, n: int) -> bytes:
    return json.dumps({"holder": who, "renewed": n}).encode()  # other bytes each time, so another tag


@contextmanager
def lease(location: ObjectPath) -> Iterator[None]:
    """Hold the exclusive lock of a lake.

    Raises:
        LakeError: ``busy`` where another holds it, or has taken it over because this process was asleep too long.
        OSError: the store cannot be reached.
    """
    place, who = location / LEASE, uuid.uuid4().hex
    tag = place.tag() if place.create(_text(who, 0)) else _take_over(location, place, who)
    holder = _Holder(place, tag, who)
    try:
        yield
    finally:
        holder.end()
    if holder.is_lost:
        message = f"another process took over {location} because this one did not answer for {EXPIRES_S} s; run again"
        raise LakeError(message, "busy")


def _take_over(location: ObjectPath, place: ObjectPath, who: str) -> dict[str, str]:
    ticket = location / f"{LEASE}-{who}"  # what the store's clock says now
    ticket.write_bytes(b"")
    try:
        now_ns = ticket.stat().st_mtime_ns
    finally:
        ticket.unlink()
    try:
        tag, since_ns = place.tag(), place.stat().st_mtime_ns
    except FileNotFoundError:
        tag, since_ns = {}, now_ns
    age_s = (now_ns - since_ns) / 1e9
    taken = place.exchange(_text(who, 0), tag) if tag and age_s > EXPIRES_S else None
    if taken is None:
        message = (
            f"another forget or repair holds {location}, and renewed that {age_s:.0f} s ago; "
            f"wait for its end, or {EXPIRES_S} s where it was killed"
        )
        raise LakeError(message, "busy")
    return taken
