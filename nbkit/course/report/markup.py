"""Small pieces of HTML that the sections of a page are built from."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def render_mark(word: str, count: int | None = None) -> str:
    """Render a verdict or a state in its colour, with a count if one is given."""
    shown = word if count is None else f"{count} {word}"
    # The style sheet has a colour for the first word of each verdict and state.
    css = escape(word.lower().split()[0])
    return f'<span class="mark {css}">{escape(shown)}</span>'


def render_marks(marks: Iterable[str]) -> str:
    """Render several marks in a row."""
    return f'<span class="marks">{"".join(marks)}</span>'


def render_soft(html: str) -> str:
    """Render HTML in small print."""
    return f'<span class="soft">{html}</span>'


def render_list(items: Iterable[str]) -> str:
    """Render pieces of HTML as a list."""
    lines = "".join([f"<li>{item}</li>" for item in items])
    return f"<ul>{lines}</ul>"


def render_table(head: str, rows: Iterable[str]) -> str:
    """Render a table; `head` holds its `<th>`, `rows` are whole `<tr>`."""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def render_headings(names: Iterable[str]) -> str:
    """Render plain text as the headings of a table's columns."""
    return "".join([f"<th>{escape(name)}</th>" for name in names])


def make_anchor(number: int) -> str:
    """Make the id of a lesson's section, for links within the page."""
    return f"lesson-{number + 1}"


def render_lesson_link(number: int, title: str) -> str:
    """Render a link to a lesson's section on the page."""
    return f'<a href="#{make_anchor(number)}">{escape(title)}</a>'
