"""Read a grid of parameter values, and name the files of each of its points."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from nbkit.course.lessons import check_parameters
from nbkit.lab.knobs import KnobError, Value

MAX_NAME_BYTES = 200  # a file system allows 255, and files add up to 12 to a name


def read_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read `NAME=V1,V2,...` into the values by parameter.

    >>> read_grid(["lr=0.1,1", "depth=2"])
    {'lr': ['0.1', '1'], 'depth': ['2']}

    Raises:
        KnobError: if a text does not have this form, or a name occurs twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name.isidentifier() and equals and all(values.split(","))):
            raise KnobError(f"a grid is NAME=V1,V2,..., got {text!r}.")
        # A second occurrence would silently replace the first.
        if name in grid:
            raise KnobError(f"the grid has {name} twice: put all its values into one.")
        grid[name] = values.split(",")
    return grid


def list_points(
    path: Path, given: Mapping[str, object], grid: Mapping[str, Sequence[object]]
) -> dict[str, dict[str, Value]]:
    """List the points of a grid: for each name, such as `01_lr_finder--lr=0.1`, its values.

    Args:
        path: the lesson's notebook.
        given: parameters of all points.
        grid: values by parameter; the points are all combinations. Without a grid there is one
            point, which has the name of the notebook.
    Raises:
        KnobError: if the lesson does not accept a parameter, or one is both given and in the grid.
    """
    for knob in grid:
        if knob in given:
            raise KnobError(f"{knob} is given as a parameter and in the grid: choose one.")
    points: dict[str, dict[str, Value]] = {}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        checked = check_parameters(path, {**given, **point})
        words = [path.stem]
        for knob in point:
            words.append(f"{knob}={_encode_value(checked[knob])}")
        # Values that are equal once they are read, such as 1 and 1.0, make one point.
        points[shorten_name("--".join(words))] = checked
    return points


def shorten_name(name: str) -> str:
    """Return the name, cut and with a checksum if a file system could not hold it."""
    data = os.fsencode(name)
    if len(data) <= MAX_NAME_BYTES:
        return name
    ending = f"--{hashlib.sha256(data).hexdigest()[:16]}"
    return data[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending


def _encode_value(value: Value) -> str:
    """Encode a value for the name of a file, so that different values get different texts."""
    text = str(value)
    # The short form (0.1, 1e-05) is used only if it means the same number.
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"
    # Percent-encoding keeps "a b" and "a/b" apart.
    return re.sub(r"[^\w.+-]", lambda found: quote(found[0], safe=""), text)
