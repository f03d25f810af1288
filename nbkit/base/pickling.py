"""Pickle functions and values for another process, also those of a notebook."""

from __future__ import annotations

import importlib
import io
import pickle
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

import torch


def pickle_value(value: object, what: str) -> bytes:
    """Pickle a value; by cloudpickle if it holds what another process cannot import by name.

    Args:
        value: anything, functions and classes included.
        what: how the message names it.
    Raises:
        ImportError: if cloudpickle is needed and not installed.
        TypeError: if the value cannot be pickled.
    """
    try:
        data = pickle.dumps(value)
        # What is in __main__ has a name, but not in the other process.
        if b"__main__" not in data:
            return data
    except Exception:  # a lambda, a local class: pickle has several errors for them
        pass
    try:
        import cloudpickle
    except ImportError:
        raise ImportError(
            f"{what} is defined in a notebook, a script or another function, where a new process "
            f"cannot import it. Either pip install cloudpickle, or move it to a module."
        ) from None
    usual = cloudpickle.Pickler.dispatch_table
    # cloudpickle sends a module's submodules along with a function that names both: one that uses
    # torch and a variable `classes` takes torch.classes with it, which pickles only by its name.
    reducers: dict[type, Callable[..., Any]] = {
        types.CodeType: _reduce_code,
        type(torch.classes): _reduce_module,
        type(torch.ops): _reduce_module,
    }

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        dispatch_table: ClassVar = ChainMap(reducers, usual)

    try:
        Pickler(file := io.BytesIO()).dump(value)
        return file.getvalue()
    except Exception as error:
        raise TypeError(
            f"{what} cannot be sent to another process: {error}. Send plain values, tensors or "
            f"modules, and make locks, files and generators inside the function."
        ) from error


def _reduce_module(module: types.ModuleType) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return importlib.import_module, (module.__name__,)


def _reduce_code(code: types.CodeType) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Take code apart as cloudpickle does, with its file's name.

    cloudpickle 3.1.3 leaves the name out; a traceback could not show the lines without it.
    """
    import cloudpickle

    make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)[:2]
    return _make_code, (make, arguments, code.co_filename)


def _make_code(
    make: Callable[..., Any], arguments: tuple[Any, ...], filename: str
) -> types.CodeType:
    code: types.CodeType = make(*arguments)
    return code.replace(co_filename=filename)
