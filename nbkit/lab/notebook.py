"""Talk to the notebook that is running: its variables, and what is displayed under a cell."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.markdown import escape_markdown

Item = TypeVar("Item")
PROGRESS_STEP = 5  # percent between two updates: each one is a message to the browser


def is_watched() -> bool:
    """Return whether a person watches the notebook; a headless run is not watched."""
    # Imported when called: the live lab would otherwise load with every lesson.
    from nbkit.lab.live.is_live import is_live

    return is_live()


def read_namespace() -> dict[str, Any]:
    """Return the variables of the running notebook; an empty namespace outside of one."""
    from IPython import get_ipython

    shell = get_ipython()
    return {} if shell is None else shell.user_ns


def display_object(value: object, **options: Any) -> Any:
    """Display an object under the cell, by IPython's `display`."""
    from IPython.display import display

    return display(value, **options)


def make_markdown(text: str) -> Any:
    """Make the object that IPython displays as Markdown."""
    from IPython.display import Markdown

    return Markdown(text)


def display_markdown(text: str) -> None:
    """Display a text as Markdown."""
    display_object(make_markdown(text))


def display_source(helper: Callable[..., Any] | type) -> None:
    """Display the source of a function or a class as a block of code.

    Raises:
        TypeError: if it has no source in Python.
    """
    try:
        source = textwrap.dedent(inspect.getsource(helper))
    except (TypeError, OSError):
        # OSError: the file is gone, or the function was made by `exec`.
        raise TypeError(
            f"expected a function or a class that is written in Python, got {helper!r}."
        ) from None
    # A fence must be longer than any in the source, such as one in a docstring.
    fence = "```"
    while fence in source:
        fence += "`"
    display_markdown(f"{fence}python\n{source}{fence}")


def display_claims(claims: Sequence[Claim]) -> None:
    """Display claims as a table; columns that no claim of them fills are left out."""
    columns = {
        "claim": [f"{escape_markdown(claim.sentence)} (`{claim.id}`)" for claim in claims],
        "metric": [escape_markdown(claim.metric) for claim in claims],
        "margin": [claim.describe_bound() for claim in claims],
        # A lesson may measure more; the cards say how many it was.
        "over at least": [f"{claim.n} {claim.over}" for claim in claims],
        "task": [_describe_task(claim) for claim in claims],
        "held against": [escape_markdown(claim.baseline) for claim in claims],
        "where it comes from": [escape_markdown(claim.source) for claim in claims],
    }
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    lines = [filled.keys(), ["---"] * len(filled), *zip(*filled.values(), strict=True)]
    display_markdown("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _describe_task(claim: Claim) -> str:
    """Describe what a claim is measured on, as a cell of a Markdown table."""
    task = escape_markdown(claim.task)
    if not claim.general:
        return task
    # A second task often has fewer seeds.
    further = f"on a second task over at least {claim.n_elsewhere or claim.n} {claim.over}"
    return f"{task}, and {further}" if task else further


def display_with_numbers(text: str, numbers: Mapping[str, object]) -> None:
    """Display a line of stable text, with the numbers in the output's metadata.

    The text is the same on every machine, so that a stored notebook can be compared with a fresh
    run; the numbers differ, and the report and the ledger read them from the metadata.
    """
    display_object({"text/plain": text}, raw=True, metadata={"nbkit": numbers})


def show_progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield the items, and display `label: 40 %` on one line that is empty at the end."""
    label = escape_markdown(label)
    # A display with an id can be updated in place: one line, not twenty.
    line = display_object(make_markdown(label), display_id=True)
    last = 0
    for count, item in enumerate(items, start=1):
        yield item
        percent = 100 * count // max(1, total)
        if percent >= last + PROGRESS_STEP:
            line.update(make_markdown(f"{label}: {percent} %"))
            last = percent
    line.update(make_markdown(""))
