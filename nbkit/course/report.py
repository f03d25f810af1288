"""What a run found out: a table for the terminal, a page for the browser.

The page is one file that needs no network; it reads on a phone, in the dark and on paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbkit.course.record import Record, write_whole
from nbkit.lab.claims import NO_LESSON, without_lesson
from nbkit.lab.holm import with_holm

VERDICTS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de;
  --good: #1a6e3c; --bad: #b3261e; --open: #7a5500; --panel: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117;
  --line: #30363d; --good: #5fd08a; --bad: #ff8a80; --open: #e3b341; --panel: #161b22; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .875rem; }
a { color: inherit; } details { margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; margin-top: .6rem; table-layout: fixed; }
th:nth-child(1) { width: 7.5rem; } th:nth-child(3) { width: 11rem; }
th:nth-child(4) { width: 2rem; }
th { text-align: left; font-size: .8rem; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .45rem .6rem .45rem 0;
  vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; }
.mark { font-weight: 700; font-size: .8rem; letter-spacing: .03em; white-space: nowrap; }
.supported, .ran { color: var(--good); } .refuted, .failed { color: var(--bad); }
.inconclusive { color: var(--open); } .skipped { color: var(--soft); }
pre { background: var(--panel); border-left: 4px solid var(--bad); padding: .6rem .8rem;
  white-space: pre-wrap; font-size: .85rem; }
@media (max-width: 40rem) { thead { display: none; }
  tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { display: block; border: 0; padding: .1rem 0; }
  td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); } }
@media print { body { max-width: none; font-size: 10pt; } section { break-inside: avoid; }
  a { text-decoration: none; } .links { display: none; } }
"""


def table(records: Sequence[Record]) -> str:
    """Lesson, seconds, each claim and its verdict; below them what flipped and what failed."""
    rows = [("lesson", "seconds", "claim", "verdict")]
    failures = []
    for record in records:
        findings = [(str(v.get("claim")), str(v.get("verdict"))) for v in record.verdicts]
        findings += [] if record.ok else [("", "FAILED")]
        first = (record.lesson, f"{record.seconds:.1f}")
        for n, finding in enumerate(findings or [("", "")]):
            rows.append((*(("", "") if n else first), *finding))
        failures += [flip_in_words(flip) for flip in record.flips]
        failures += [] if record.ok else [f"{record.lesson} {failure(record)}"]
    lesson, seconds, claim, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{a:<{lesson}}  {b:>{seconds}}  {c:<{claim}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([*lines, *failures])


def failure(record: Record) -> str:
    """One line: `failed in cell 4: ZeroDivisionError: division by zero`."""
    where = f" in cell {record.cell}" if record.cell else ""
    return f"failed{where}: {(record.reason or '').partition(chr(10))[0]}"


def flip_in_words(flip: Mapping[str, Any]) -> str:
    """One line: the verdict that a claim has now, the one in the ledger, and both intervals."""
    now, before = (
        f"{verdict['verdict']}, {effect(verdict)}, n = {verdict.get('n')}"
        for verdict in (flip["now"], flip["before"])
    )
    recorded = f"recorded {flip['recorded'][:10]}"
    return f"FLIPPED {flip['claim']}: {now}; {recorded}: {before}"


def summary(records: Sequence[Record]) -> str:
    """One line: how many ran, how many claims met which verdict, how many of these flipped."""
    ran = sum(record.ok for record in records)
    counts = Counter(v.get("verdict") for record in records for v in record.verdicts)
    claims = ", ".join(f"{counts[name]} {name.lower()}" for name in VERDICTS if counts[name])
    flipped = sum(len(record.flips) for record in records)
    return (
        f"{ran} of {len(records)} lessons ran"
        + (f"; claims: {claims}" if claims else "")
        + (f"; {flipped} flipped" if flipped else "")
    )


def write_page(records: Sequence[Record], path: Path) -> None:
    """Write the run as one page; it links to the executed notebooks beside it."""
    write_whole(path, page(records))


def page(records: Sequence[Record]) -> str:
    """The run as one HTML page; its claims are looked at together, too (Holm)."""
    everything = iter(with_holm([verdict for record in records for verdict in record.verdicts]))
    verdicts = [[next(everything) for _ in record.verdicts] for record in records]
    seconds = sum(record.seconds for record in records)
    started = min((record.started for record in records), default="")
    machines = dict.fromkeys(_machine(record.machine) for record in records)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>nbkit: {escape(summary(records))}</title><style>{STYLE}</style></head>\n<body>"
        f"<h1>{escape(summary(records))}</h1>"
        f'<p class="soft">{escape(started)}, {seconds:.0f} s. {escape("; ".join(machines))}</p>\n'
        + "\n".join(map(_section, records, verdicts))
        + _no_lesson()
        + "\n</body></html>\n"
    )


def _section(record: Record, verdicts: Iterable[Mapping[str, Any]]) -> str:
    """One lesson: how it ended, what it found, where its files are."""
    name, file = escape(record.lesson), quote(record.lesson)
    ends = {"as a page": ".html", "notebook": ".ipynb"} if record.cells else {}
    ends["record"] = ".json"
    links = ", ".join(f'<a href="{file}{end}">{text}</a>' for text, end in ends.items())
    given = ", ".join(f"{key} = {value!r}" for key, value in record.parameters.items())
    state = _mark("RAN" if record.ok else "FAILED")
    where = f"cell {record.cell}: " if record.cell else ""
    wrong = [flip_in_words(flip) for flip in record.flips]
    wrong += [] if record.ok else [f"{where}{record.reason}"]
    told = "".join(f"<pre>{escape(text)}</pre>" for text in wrong)
    return (
        f"<section><h2>{name}</h2>"
        f'<p class="soft">{state} in {record.seconds:.1f} s'
        f"{escape(', with ' + given) if given else ''}"
        f'<span class="links">: {links}</span></p>'
        f"{told}{_findings(verdicts)}</section>"
    )


def _findings(verdicts: Iterable[Mapping[str, Any]]) -> str:
    """The verdicts as a table; on a phone each row becomes a block."""
    rows = "".join(
        f"<tr><td>{_mark(str(verdict.get('verdict')))}</td>"
        f"<td>{escape(str(verdict.get('sentence') or verdict.get('claim')))}"
        f'<br><span class="soft">{_in_words(verdict)}</span></td>'
        f'<td class="number" data-name="effect">{effect(verdict)}</td>'
        f'<td class="number" data-name="n">{escape(str(verdict.get("n", "")))}</td></tr>'
        for verdict in verdicts
    )
    head = "<tr><th>verdict</th><th>claim</th><th>effect, interval</th><th>n</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""


def effect(verdict: Mapping[str, Any]) -> str:
    """The effect and its interval: `0.12 [0.08, 0.16]`; an open end is a dash."""
    low_high = verdict.get("interval") or []
    words = [_number(value) for value in (verdict.get("effect"), *low_high)]
    if len(words) == 3:
        return f"{words[0]} [{words[1]}, {words[2]}]"
    return words[0]


def _number(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return "–" if value is None else escape(str(value))


def _in_words(verdict: Mapping[str, Any]) -> str:
    """Which claim, why this verdict, and what was measured."""
    words = f"{verdict.get('claim')}: {verdict.get('reason')}"
    if verdict.get("metric"):
        words += f". Measured: {verdict['metric']}"
    if verdict.get("margin") is not None:
        words += f"; claimed: {verdict.get('bound') or _number(verdict['margin'])}"
    if verdict["verdict_holm"] != verdict["verdict"]:
        words += f". {verdict['verdict_holm']} where all claims of this page count together (Holm)"
    return escape(words)


def _no_lesson() -> str:
    """The claims of the register that nothing measures yet: counted, and named on a click."""
    claims = without_lesson().values()
    rows = "".join(f"<li>{escape(claim.sentence)}</li>" for claim in claims)
    head = f"{len(claims)} claims: {_mark(NO_LESSON)}"
    return f"<section><details><summary>{head}</summary><ul>{rows}</ul></details></section>"


def _mark(word: str) -> str:
    return f'<span class="mark {escape(word.lower().split()[0])}">{escape(word)}</span>'


def _machine(facts: Mapping[str, Any]) -> str:
    """One line about a machine: `AMD EPYC, 2 cores, Linux x86_64, torch 2.13.0, Python 3.11.7`."""
    device = facts.get("gpu") or facts.get("processor")
    return (
        f"{device}, {facts.get('cores')} cores, {facts.get('system')}, "
        f"torch {facts.get('torch')}, Python {facts.get('python')}"
    )
