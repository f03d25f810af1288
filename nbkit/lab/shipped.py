"""Find the files that ship with the kit: data, notebooks, and each lesson's folder."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
LESSONS = PACKAGE / "lessons"  # one folder for each lesson, with its claims


def shipped_file(name: str) -> Path:
    """Find a file that ships with the kit: in a checkout's data/, or in the installed package.

    Raises:
        FileNotFoundError: if it is missing, with the command that restores it.
    """
    path = data_dir() / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: expected {name}, which ships with nbkit. {how_to_restore(path)}"
        )
    return path


def data_dir() -> Path:
    """Find the folder of data and ledger: a checkout's data/, or the installed package's copy."""
    return _find_shipped_folder("data")


def lessons_dir() -> Path:
    """Find the folder of the notebooks: a checkout's, or the installed package's copy."""
    return _find_shipped_folder("notebooks")


def how_to_restore(path: Path) -> str:
    """Say which command restores a shipped file."""
    # Inside the package the file came with an installation, not with a checkout.
    if path.is_relative_to(PACKAGE):
        return "Get it back: `pip install --force-reinstall --no-deps .` in a checkout."
    relative = path.relative_to(PACKAGE.parent)
    return f"Get it back with `git checkout -- {relative}` in {PACKAGE.parent}."


def _find_shipped_folder(folder: str) -> Path:
    installed, checkout = PACKAGE / "share" / folder, PACKAGE.parent / folder
    # Beside an installed package, in site-packages, a folder `data` would be somebody else's.
    is_checkout = (PACKAGE.parent / "pyproject.toml").is_file()
    return checkout if is_checkout and not installed.is_dir() else installed
