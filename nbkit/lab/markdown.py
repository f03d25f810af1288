"""Put foreign text into Markdown, where it must stay text."""

from __future__ import annotations

import re

# Not the backtick: code in a text stays code, and contains no other markup.
MARKUP = re.compile(r"([\\*\[\]{}<>|~#$])")


def escape_markdown(text: str) -> str:
    """Escape HTML, links, formulas and table columns in a text, and put it on one line.

    Backticks still make code: inside code, nothing else is markup either.

    >>> escape_markdown("<script> | `lsuv_`")
    '\\\\<script\\\\> \\\\| `lsuv_`'
    """
    # A line break would end the row of a table, or the item of a list.
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
