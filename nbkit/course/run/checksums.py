"""Compute checksums of a lesson and of nbkit, to tell whether an earlier result still holds."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import nbkit
from nbkit.course.companions import list_companions, read_bytes
from nbkit.lab import shipped


def hash_lesson(path: Path) -> str:
    """Hash a lesson: its notebook, and beside it the claims and the modules that it may import.

    Without such files, it is the checksum of the notebook alone.
    """
    digest = hashlib.sha256(path.read_bytes())
    for file in list_companions(path):
        name = file.relative_to(path.parent).as_posix()
        # The zero byte separates name and content: no other split gives the same bytes.
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + read_bytes(file))
    return digest.hexdigest()


@cache
def hash_package() -> str:
    """Hash nbkit's source and data, which can change while the version stays the same."""
    package, data = Path(nbkit.__file__).parent, shipped.data_dir()
    digest = hashlib.sha256()
    for folder, pattern in ((package, "**/*.py"), (package, "**/*.toml"), (data, "*.npz")):
        for file in sorted(folder.glob(pattern)):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
