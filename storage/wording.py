"""Words in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(n: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 video", "12 videos"; ``many`` where the plural is not ``one`` with an s."""
    return f"{n} {one if n == 1 else many or one + 's'}"
