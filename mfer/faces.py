"""Labelled faces as data: pictures, the raters' shares of votes, and the two halves of a validation set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from mfer.classes import class_name
from mfer.pictures import decode_picture

__all__ = ["EncodedPictures", "LabelledFaces", "halves", "name_bytes"]


class EncodedPictures(Sequence[np.ndarray]):
    """Pictures that are decoded when they are asked for: item i is uint8 [H,W] grey or [H,W,3] RGB.

    An integer gives one picture; a slice or a numpy index gives the chosen pictures, still encoded.

    Args:
        sources: paths of picture files, or their bytes.
        box_xywh_px: int [N,4], the part of each picture that is the face; None for all of it.
    """

    def __init__(self, sources: Sequence[Path] | Sequence[bytes], box_xywh_px: np.ndarray | None = None) -> None:
        self.sources = sources
        self.box_xywh_px = box_xywh_px

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> EncodedPictures: ...
    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray | EncodedPictures:
        if isinstance(index, int | np.integer):
            box = None if self.box_xywh_px is None else self.box_xywh_px[index]
            return decode_picture(self.sources[index], box)
        rows = np.arange(len(self))[index]
        box = None if self.box_xywh_px is None else self.box_xywh_px[rows]
        return EncodedPictures([self.sources[i] for i in rows], box)

    def __repr__(self) -> str:
        return f"EncodedPictures({len(self)})"


@dataclass(frozen=True, repr=False)
class LabelledFaces:
    """N faces with K expressions.

    names: one per face, what ``halves`` hashes. pictures: uint8 [N,H,W] grey or [N,H,W,3] RGB where all have one
    size, else EncodedPictures, or an array [N] of pictures where sets were joined. target: float32 [N,K], the raters'
    shares of votes or one-hot, rows sum to 1. majority: int64 [N], the column of the expression with most votes.
    class_names: the K columns. agreed: bool [N], that more than half of the votes are for the majority. dropped: faces
    that the reader left out, by reason; a half keeps the counts of the whole.
    """

    names: list[str]
    pictures: np.ndarray | EncodedPictures
    target: np.ndarray
    majority: np.ndarray
    class_names: tuple[str, ...]
    source: str
    licence: str
    agreed: np.ndarray
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = len(self.names), len(self.class_names)
        if len(self.pictures) != n:
            raise ValueError(f"{n} names for {len(self.pictures)} pictures")
        shapes = {"target": (np.float32, (n, k)), "majority": (np.int64, (n,)), "agreed": (np.bool_, (n,))}
        for name, (dtype, shape) in shapes.items():
            got = getattr(self, name)
            if got.dtype != dtype or got.shape != shape:
                raise ValueError(f"{name} must be {np.dtype(dtype)} {shape}, got {got.dtype} {got.shape}")
        if n and np.abs(self.target.sum(1) - 1).max() > 1e-4:
            raise ValueError("rows of target must sum to 1")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        counts = np.bincount(self.majority, minlength=len(self.class_names))
        shown = ", ".join(f"{name} {n}" for name, n in zip(self.class_names, counts, strict=True))
        return f"LabelledFaces({self.source}: {len(self)} faces; {shown}; dropped {dict(self.dropped)})"

    def take(self, index: np.ndarray | slice) -> LabelledFaces:
        """The faces at a boolean mask [N], a slice or integer rows."""
        rows = np.arange(len(self))[index]
        return replace(
            self,
            names=[self.names[i] for i in rows],
            pictures=self.pictures[rows],
            target=self.target[rows],
            majority=self.majority[rows],
            agreed=self.agreed[rows],
        )

    def joined(self, other: LabelledFaces) -> LabelledFaces:
        """These faces and then those of another set with the same classes; the counts of what was dropped add up."""
        if self.class_names != other.class_names:
            raise ValueError(f"classes {self.class_names} cannot be joined with {other.class_names}")
        pictures = np.empty(len(self) + len(other), dtype=object)
        for at, faces in ((0, self), (len(self), other)):
            for i in range(len(faces)):
                pictures[at + i] = faces.pictures[i]
        return LabelledFaces(
            [*self.names, *other.names],
            pictures,
            np.concatenate([self.target, other.target]),
            np.concatenate([self.majority, other.majority]),
            self.class_names,
            f"{self.source} and {other.source}",
            f"{self.licence}; {other.licence}",
            np.concatenate([self.agreed, other.agreed]),
            dict(Counter(self.dropped) + Counter(other.dropped)),
        )

    def with_classes(self, class_names: Sequence[str]) -> LabelledFaces:
        """The same faces with the columns of a model; those whose expression the model lacks are dropped and counted.

        Votes for a missing class are shared out among the others in proportion.
        """
        names = tuple(class_name(name) for name in class_names)
        if names == self.class_names:
            return self
        column = {name: i for i, name in enumerate(names)}
        kept = np.array([self.class_names[i] in column for i in self.majority], dtype=bool)
        target = np.zeros((len(self), len(names)), dtype=np.float32)
        for old, name in enumerate(self.class_names):
            if name in column:
                target[:, column[name]] = self.target[:, old]
        target[kept] /= target[kept].sum(1, keepdims=True)
        target[~kept] = 1 / len(names)
        lost = Counter(self.class_names[i] for i in self.majority[~kept])
        renumbered = np.array([column.get(name, 0) for name in self.class_names], dtype=np.int64)
        faces = replace(
            self,
            target=target,
            majority=renumbered[self.majority],
            class_names=names,
            dropped={**self.dropped, **{f"{name}, not a class of the model": n for name, n in lost.items()}},
        )
        return faces.take(kept)


def name_bytes(name: str | Path) -> bytes:
    """The name for a hash, also of a file whose name is no UTF-8."""
    return str(name).encode(errors="surrogateescape")


def halves(names: Iterable[str]) -> np.ndarray:
    """Which faces belong to the report half, bool [N]; the others are the selection half.

    The lowest bit of the first byte of sha256(name) decides, so a face never changes sides, whatever else the set
    holds. Epochs, models and temperature are chosen on the selection half and metrics are quoted from the other.
    """
    return np.array([hashlib.sha256(name_bytes(name)).digest()[0] & 1 == 1 for name in names], dtype=bool)
