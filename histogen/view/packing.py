"""Arrays as JSON values, which the page reads from a server and from files alike."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}


def pack(values: NDArray[Any]) -> dict[str, str]:
    """Return ``values`` as ``{"type": JavaScript's array, "base64": little-endian bytes}``.

    bool becomes uint8, other integers int32, other floats float32.
    """
    name = {"b": "uint8", "i": "int32", "u": "int32", "f": "float32"}[values.dtype.kind]
    data = np.ascontiguousarray(values, dtype=np.dtype(name).newbyteorder("<"))
    return {"type": _TYPES[name], "base64": base64.b64encode(data.tobytes()).decode()}


def plain(value: Any) -> Any:
    """Return a NumPy scalar, or row, as JSON values: numbers with 6 digits, None for what is not finite."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
