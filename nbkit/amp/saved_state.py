"""Check a saved state of `Amp` before any part of it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from torch.amp import GradScaler

from nbkit.amp.skips import SkipCount


def check_saved_state(state: Mapping[str, Any], precision: str, scaler: GradScaler | None) -> None:
    """Refuse a state that is not whole, or that another precision has saved.

    Raises:
        ValueError: with the name of the missing part, or with the two precisions.
    """
    # The keys before the values: a foreign dict is to be named as such.
    _require_keys(("precision", "skips"), state, "the state")
    if state["precision"] != precision:
        raise ValueError(
            f"expected a state of precision {precision!r}, but it was saved with precision "
            f"{state['precision']!r}. Load it into Amp({state['precision']!r})."
        )
    for count in state["skips"]:
        _require_keys([field.name for field in fields(SkipCount)], count, "an item of its skips")
    if scaler is not None:
        _require_keys(["scaler"], state, "the state")
        # torch's load_state_dict would fail half way through a scaler that lacks a key.
        _require_keys(scaler.state_dict(), state["scaler"], "its scaler")


def _require_keys(names: Iterable[str], part: Any, where: str) -> None:
    # A list or None instead of a dict lacks every key.
    known = part if isinstance(part, Mapping) else {}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"expected a state from Amp.state_dict(), but {where} has no {', '.join(missing)}. "
            f"Nothing was loaded."
        )
