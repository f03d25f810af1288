"""Name the colours of the arms, and the colour and the shape of each verdict.

The colours of the arms are Okabe and Ito's, which colour-blind readers can tell apart. Those of the
verdicts are others, so that no arm looks like a verdict; they also differ in shape.
"""

from __future__ import annotations

from typing import Any

from nbkit.lab.evidence.claims import INCONCLUSIVE, REFUTED, SKIPPED, SUPPORTED, Outcome

# The technique, what it is held against, the baseline at its best setting, and everything else.
TECHNIQUE, BASELINE, BEST, QUIET = "#D55E00", "#0072B2", "#56B4E9", "#767676"

VERDICTS = {
    SUPPORTED: "#1B7837",
    REFUTED: "#762A83",
    INCONCLUSIVE: "#8C6D1F",
    SKIPPED: "#767676",
}
# Markers of matplotlib; that of INCONCLUSIVE is drawn hollow, as `style_verdict` says.
SHAPES = {SUPPORTED: "o", REFUTED: "X", INCONCLUSIVE: "o", SKIPPED: "_"}


def style_verdict(outcome: Outcome) -> dict[str, Any]:
    """Return what `ax.plot(x, y, **style)` needs to draw the mark of a verdict.

    SUPPORTED is a filled circle, REFUTED an X, INCONCLUSIVE a hollow circle, SKIPPED a dash.

    >>> style_verdict(INCONCLUSIVE)["markerfacecolor"]
    'none'
    """
    color = VERDICTS[outcome]
    return {
        "marker": SHAPES[outcome],
        "color": color,
        "linestyle": "none",
        "markersize": 9,
        # The edge of a hollow circle, and the stroke of a dash, must be wide enough to be seen.
        "markeredgewidth": 0 if outcome == REFUTED else 2,
        "markerfacecolor": "none" if outcome == INCONCLUSIVE else color,
    }
