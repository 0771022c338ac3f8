"""A canonical text for any message: equal where two messages are equal, in every process. No id, no hash order."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Sequence
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

from rakka_sim.runtime.asks import ADDRESSES

PLAIN = (bool, int, str, bytes, complex, type(None))


def encode(obj: Any) -> str:
    """The text: values by type and fields, addresses by path, floats exactly, arrays by their bytes' digest."""
    return _encode(obj, ())


def _encode(obj: Any, within: tuple[Any, ...]) -> str:
    if isinstance(obj, enum.Enum):
        return f"{type(obj).__name__}.{obj.name}"
    if isinstance(obj, np.generic):
        obj = obj.item()
    if isinstance(obj, float):
        return float.__repr__(obj)
    if isinstance(obj, PLAIN):
        return repr(obj)
    if isinstance(obj, ADDRESSES):
        return f"<{obj.path}>"
    if isinstance(obj, np.ndarray):
        return _array(obj, within)
    if isinstance(obj, type | FunctionType | BuiltinFunctionType | MethodType):
        return f"{obj.__module__}.{obj.__qualname__}"
    if isinstance(obj, PurePath):
        return f"{type(obj).__name__}({str(obj)!r})"
    if hasattr(obj, "get_secret_value"):
        return f"<{type(obj).__name__}>"  # a trace may be printed
    if any(obj is outer for outer in within):
        return "..."
    return _compound(obj, (*within, obj))


def _compound(obj: Any, within: tuple[Any, ...]) -> str:
    name = type(obj).__name__
    if isinstance(obj, dict):
        items = (f"{_encode(key, within)}: {_encode(item, within)}" for key, item in obj.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(obj, set | frozenset):
        return f"{name}({', '.join(sorted(_encode(item, within) for item in obj))})"
    if isinstance(obj, Sequence) or hasattr(obj, "popleft"):
        return f"{name}({', '.join(_encode(item, within) for item in obj)})"
    fields = ", ".join(f"{field}={_encode(part, within)}" for field, part in _fields(obj))
    return f"{name}({fields})"


def _fields(obj: Any) -> list[tuple[str, Any]]:
    """What an object consists of: declared fields, or arguments and attributes of an error, or its attributes."""
    if dataclasses.is_dataclass(obj):
        return [(field.name, getattr(obj, field.name)) for field in dataclasses.fields(obj)]
    found = dict(getattr(obj, "__dict__", {}))
    for base in type(obj).__mro__:
        for said in ("__slots__", "__mypyc_attrs__"):  # a compiled class has neither slots nor a `__dict__`
            names = vars(base).get(said, ())
            names = (names,) if isinstance(names, str) else names
            found |= {name: getattr(obj, name) for name in names if name[:2] != "__" and hasattr(obj, name)}
    fields = [("args", obj.args)] if isinstance(obj, BaseException) else []
    return fields + sorted(found.items())  # and no order of its own, which would be the compiler's


def _array(array: np.ndarray[Any, Any], within: tuple[Any, ...]) -> str:
    if array.dtype.hasobject:
        return f"array({_encode(array.tolist(), within)})"
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return f"array({array.dtype.str}, {array.shape}, sha256 {digest})"
