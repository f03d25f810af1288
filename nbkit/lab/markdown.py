"""Put somebody's text into Markdown, where it must stay text."""

from __future__ import annotations

import re

MARKUP = re.compile(r"([\\*\[\]{}<>|~#$])")


def escape_markdown(text: str) -> str:
    """Escape HTML, links, formulas and table columns in a text, and put it on one line.

    Backticks still make code: in it nothing else is markup either.

    >>> escape_markdown("<script> | `lsuv_`")
    '\\\\<script\\\\> \\\\| `lsuv_`'
    """
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
