"""The files beside a notebook that belong to its version: claims, and modules it may import."""

from __future__ import annotations

import json
import re
from pathlib import Path


def list_companions(path: Path) -> list[Path]:
    """The `*.toml` and `*.py` beside a notebook, and the `*.py` in each folder that they name.

    A folder counts when its name is a word in the notebook's code, or in that of a module found so
    far: rather one import too many than a result that is out of date.
    """
    folder = path.parent
    found = [*folder.glob("*.toml"), *folder.glob("*.py")]
    folders = {each.name: each for each in folder.iterdir() if each.is_dir()}
    unread = [path, *found] if folders else []
    while unread:
        words = set(re.findall(r"\w+", _read_code(unread.pop())))
        for name in words & folders.keys():
            modules = list(folders.pop(name).rglob("*.py"))
            found += modules
            unread += modules
    return sorted(file for file in found if file.is_file())


def _read_code(file: Path) -> str:
    """The text of a file; of a notebook, that of its code cells."""
    text = read_bytes(file).decode(errors="replace")
    if file.suffix != ".ipynb":
        return text
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join("".join(cell["source"]) for cell in cells)
    except (ValueError, KeyError, TypeError):  # an older format: then its outputs are read too
        return text


def read_bytes(file: Path) -> bytes:
    """What is in a file; nothing if it cannot be read, which its importer will say."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
