"""Numbers as exact as they mean something, so that they pack well."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schema import OBSERVATIONS

__all__ = ["round_for_storage"]


def _round_to_step(column: pa.ChunkedArray, step: float) -> pa.ChunkedArray:
    scaled = pc.round(pc.divide(column.cast(pa.float64()), step))
    return pc.multiply(scaled, step).cast(pa.float32())


def _round_to_bits(column: pa.ChunkedArray, bits: int) -> pa.ChunkedArray:
    values = column.to_numpy()
    mantissa, exponent = np.frexp(values)
    rounded = np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(np.float32)
    return pa.chunked_array([pa.array(rounded, mask=column.is_null().to_numpy())])


def round_for_storage(table: pa.Table) -> pa.Table:
    """Round every column to the exactness that its field's metadata states, so that it packs well.

    Args:
        table: rows with columns of ``observations``; rounding twice changes nothing.

    Returns:
        The same table; probabilities are multiples of 2^-12, boxes and landmarks of 1/8 px. NULL stays NULL.
    """
    for index, name in enumerate(table.column_names):
        metadata = OBSERVATIONS.schema.field(name).metadata
        if b"step" in metadata:
            table = table.set_column(index, name, _round_to_step(table[name], float(metadata[b"step"])))
        elif b"bits" in metadata:
            table = table.set_column(index, name, _round_to_bits(table[name], int(metadata[b"bits"])))
    return table
