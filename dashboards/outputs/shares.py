"""Shares that a report and the dashboard both state."""

from __future__ import annotations

__all__ = ["share_with_face"]


def share_with_face(n_with_face: int | None, n_frames: int | None, n_undecodable: int | None) -> float | None:
    """The share of the frames that could be read which show a face; None where none could be read."""
    n_readable = (n_frames or 0) - (n_undecodable or 0)
    return (n_with_face or 0) / n_readable if n_readable else None
