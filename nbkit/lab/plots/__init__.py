"""Draw the pictures of the lab: each function takes `ax`, returns `ax` and never calls show.

One arm keeps one colour throughout the course. Verdicts have colours of their own, and a shape, so
that they can be told apart in grey, too.
"""

from nbkit.lab.plots.curves import arms, ladder, landing, seeds
from nbkit.lab.plots.frame import caption, spread_names, write_plain_ticks
from nbkit.lab.plots.grids import conclude, grid
from nbkit.lab.plots.palette import (
    BASELINE,
    BEST,
    QUIET,
    SHAPES,
    TECHNIQUE,
    VERDICTS,
    style_verdict,
)
from nbkit.lab.plots.verdict_bars import LARGEST_EFFECT, against_margin, effects

__all__ = [
    "BASELINE",
    "BEST",
    "LARGEST_EFFECT",
    "QUIET",
    "SHAPES",
    "TECHNIQUE",
    "VERDICTS",
    "against_margin",
    "arms",
    "caption",
    "conclude",
    "effects",
    "grid",
    "ladder",
    "landing",
    "seeds",
    "spread_names",
    "style_verdict",
    "write_plain_ticks",
]
