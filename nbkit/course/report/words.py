"""Word the parts of a report: one way to write a number, a verdict, a machine.

All of them return plain text; `html` and `markdown` escape it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbkit.course.ledger import MISSING
from nbkit.lab.evidence.claims import SKIPPED, SUPPORTED


def describe_flip(flip: Mapping[str, Any]) -> str:
    """Describe a flip in one line: the verdict now, the one in the ledger, and both intervals.

    Where a claim has no verdict now, the reason replaces the interval.
    """
    now, before = _describe_flip_side(flip["now"]), _describe_flip_side(flip["before"])
    if flip["now"]["verdict"] == MISSING:
        now = f"{MISSING}, {flip['now'].get('reason')}"
    recorded = f"recorded {str(flip['recorded'])[:10]}"  # the date of an ISO time
    where = f" on {flip['task']}" if flip.get("task") else ""
    return f"FLIPPED {flip['claim']}{where}: {now}; {recorded}: {before}"


def _describe_flip_side(verdict: Mapping[str, Any]) -> str:
    return f"{verdict['verdict']}, {format_effect(verdict)}, n = {verdict.get('n')}"


def format_effect(verdict: Mapping[str, Any]) -> str:
    """Format the effect and its interval, `0.12 [0.08, 0.16]`; an open end is a dash."""
    effect = format_number(verdict.get("effect"))
    interval = verdict.get("interval")
    if not interval:  # an exact claim has none
        return effect
    low, high = interval
    return f"{effect} [{format_number(low)}, {format_number(high)}]"


def format_number(value: object) -> str:
    """Format a number with three significant digits; None is a dash."""
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return "–" if value is None else str(value)


def format_sample_size(verdict: Mapping[str, Any]) -> str:
    """Format how many values a verdict rests on, `8 seeds`; None is a dash."""
    count = verdict.get("n")
    if count is None:
        return "–"
    return f"{count} {verdict.get('over') or ''}".rstrip()


def describe_measure(verdict: Mapping[str, Any]) -> str:
    """Describe the measured quantity, and the bound that the claim sets for it."""
    if not verdict.get("metric"):
        return ""
    words = f"Measured: {verdict['metric']}"
    if verdict.get("margin") is not None:
        words += f"; claimed: {verdict.get('bound') or format_number(verdict['margin'])}"
    return words


def describe_task(verdict: Mapping[str, Any]) -> str:
    """Describe the task that a claim was measured on; empty if its record does not say."""
    return f"Task: {verdict['task']}" if verdict.get("task") else ""


def describe_baseline(verdict: Mapping[str, Any]) -> str:
    """Describe what a technique was held against; empty if its record does not say."""
    return f"Held against: {verdict['baseline']}" if verdict.get("baseline") else ""


def count_held_tasks(verdict: Mapping[str, Any]) -> str:
    """Count on how many tasks a claim held: `2 of 2`; empty if one task was measured."""
    further = verdict.get("elsewhere") or []
    # A claim that was not judged at home says nothing about how far it travels.
    if not further or verdict["verdict"] == SKIPPED:
        return ""
    held = 0
    for each in [verdict, *further]:
        held += each["verdict"] == SUPPORTED
    return f"{held} of {1 + len(further)}"


def describe_elsewhere(verdict: Mapping[str, Any]) -> str:
    """Describe the verdict on each further task: `On signals: REFUTED, 1.2 [1.1, 1.3], n = 8`."""
    lines = []
    for there in verdict.get("elsewhere") or ():
        # A task on which nothing was measured has a reason, and no numbers.
        numbers = f"{format_effect(there)}, n = {format_sample_size(there)}"
        if there.get("effect") is None:
            numbers = str(there.get("reason") or "not measured")
        lines.append(f"On {there['task']}: {there['verdict']}, {numbers}")
    return ". ".join(lines)


def describe_recording(verdict: Mapping[str, Any]) -> str:
    """Say when a verdict was measured, if that was in an earlier run than its record's."""
    return f"From the run of {str(verdict['recorded'])[:10]}" if verdict.get("recorded") else ""


def describe_holm(verdict: Mapping[str, Any]) -> str:
    """Describe what Holm's correction makes of a verdict; empty if the verdict stands."""
    # A verdict that was not corrected, such as one of the ledger, stands.
    corrected = verdict.get("verdict_holm", verdict["verdict"])
    if corrected == verdict["verdict"]:
        return ""
    return f"{corrected} where all claims of this page count together (Holm)"


def format_duration(seconds: float) -> str:
    """Format wall-clock seconds: `7.5 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 99.95:  # what is below this still rounds to at most 99.9
        return f"{seconds:.1f} s"
    # Round before splitting, so that no time reads `1 min 60 s`.
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_memory(mib: float | None) -> str:
    """Format an amount in MiB: `812 MiB`, `2.4 GiB`, `memory not measured`."""
    if mib is None:
        return "memory not measured"
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.1f} GiB"


def format_date(started: str) -> str:
    """Format the start of a run, an ISO time, as `2026-01-02 03:04 UTC`."""
    day, _, time = started.partition("T")
    return f"{day} {time[:5]} UTC" if time else day


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Format parameters as code: `lr = 0.1, profile = 'smoke'`."""
    return ", ".join([f"{name} = {value!r}" for name, value in parameters.items()])


def format_count(count: int, noun: str) -> str:
    """Format a count with its noun: `1 lesson`, `2 lessons`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def name_machine(facts: Mapping[str, Any]) -> str:
    """Name a machine as a person would: by its GPU, or else by its processor."""
    return str(facts.get("gpu") or facts.get("processor") or facts.get("hardware") or "unknown")


def describe_computer(facts: Mapping[str, Any]) -> str:
    """Describe a machine: `AMD EPYC, 2 cores, Linux x86_64, torch 2.13.0, Python 3.11.7`."""
    if not facts:
        return "no machine: it has not begun"
    return (
        f"{name_machine(facts)}, {facts.get('cores')} cores, {facts.get('system')}, "
        f"torch {facts.get('torch')}, Python {facts.get('python')}"
    )


def describe_hardware(facts: Mapping[str, Any]) -> str:
    """Describe what a lesson was measured on: `cpu (AMD EPYC), 1 thread, torch 2.13.0`."""
    if not facts:
        return "no machine: it has not begun"
    name, threads = name_machine(facts), facts.get("threads")
    # The class of hardware decides which verdicts of the ledger are compared, so it comes first.
    parts = [f"{facts['hardware']} ({name})" if facts.get("hardware") else name]
    if threads:
        parts.append(format_count(threads, "thread"))
    if facts.get("torch"):
        parts.append(f"torch {facts['torch']}")
    return ", ".join(parts)
