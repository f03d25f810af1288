"""Explain a name that a notebook does not have yet, where cells are run out of order."""

from __future__ import annotations

from types import TracebackType
from typing import Any


def explain_missing_names() -> None:
    """Let the notebook answer a NameError of its own cells with a sentence.

    Outside of IPython nothing happens. An error in a module keeps its traceback.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        shell.set_custom_exc((NameError,), show_missing_name)


def show_missing_name(
    shell: Any,
    kind: type[NameError],
    error: NameError,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    """Show the sentence in place of a traceback; IPython calls it for each NameError of a cell."""
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    # Only a cell's code has the notebook's variables: elsewhere the name is a bug of that module.
    in_notebook = last is not None and last.tb_frame.f_globals is shell.user_ns
    if not in_notebook or not error.name:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        return
    shell._showtraceback(kind, error, [describe_missing_name(error.name)])


def describe_missing_name(name: str) -> str:
    """Say what to do about a name that does not exist.

    >>> describe_missing_name("data")
    '`data` does not exist yet. If a cell above makes it, choose Run > Run All Above Selected Cell.'
    """
    return (
        f"`{name}` does not exist yet. If a cell above makes it, choose "
        f"Run > Run All Above Selected Cell."
    )
