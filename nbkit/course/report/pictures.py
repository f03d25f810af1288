"""Small pictures for a report, taken from the executed notebooks.

Which: the last picture before a lesson's first verdict, which shows what was measured, and those of
the cells that give the verdicts. The live lab's row of stops is none of them.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nbkit.course.report.read import Damaged, Entry

PER_LESSON = 3
WIDTH = 720  # pixels: sharp on a phone; a full-size one is a click away
COLORS = 48
ROOM = 1_100_000  # characters that all pictures of a page may take together


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, its size in pixels, and what it shows in words."""

    source: str
    alt: str
    width: int
    height: int


Pictures = Mapping[tuple[int, str], Sequence[Picture]]


def pictures(
    runs: Sequence[Sequence[Entry]], room: int = ROOM
) -> tuple[dict[tuple[int, str], list[Picture]], list[Damaged], int]:
    """The pictures of each lesson, by the number of the run and the lesson's name.

    Args:
        room: characters that all of them may take together; each lesson's first come first.
    Returns:
        the pictures; the notebooks or pictures that could not be read; how many had no room.
    """
    found: dict[tuple[int, str], list[Picture]] = {}
    damaged: list[Damaged] = []
    for number, run in enumerate(runs):
        for entry in run:
            path = entry.file(".ipynb")
            if path:
                found[number, entry.name] = list(_of_notebook(path, entry, damaged))

    left_out, kept = 0, {place: list[Picture]() for place in found}
    for rank in range(PER_LESSON):
        for place, several in found.items():
            if rank >= len(several):
                continue
            if len(several[rank].source) <= room:
                room -= len(several[rank].source)
                kept[place].append(several[rank])
            else:
                left_out += 1
    return kept, damaged, left_out


def _of_notebook(path: Path, entry: Entry, damaged: list[Damaged]) -> Iterator[Picture]:
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        chosen = choose(cells)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged.append(Damaged(str(path), f"not a notebook ({type(error).__name__}: {error})"))
        return
    for png, told in chosen[:PER_LESSON]:
        try:
            yield thumbnail(png, alt=told or f"What {entry.name} measured.")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            damaged.append(Damaged(str(path), f"a picture cannot be read ({error})"))


def choose(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The pictures of a notebook that a report shows: base64 and what is known of each in words."""
    before: tuple[str, str] | None = None
    with_verdicts: list[tuple[str, str]] = []
    judged = False
    for cell in cells:
        outputs = cell.get("outputs") or []
        words = [words for output in outputs if (words := _verdict(output))]
        shown = [picture for output in outputs if (picture := _png(output))]
        if words:
            alt = f"Intervals and margins: {', '.join(words)}."
            with_verdicts += [(png, told or alt) for png, told in shown]
            judged = True
        elif shown and not judged:
            before = shown[-1]
    if not judged:
        return []
    return [*([before] if before else []), *with_verdicts]


def _verdict(output: Mapping[str, Any]) -> str | None:
    carried = (output.get("metadata") or {}).get("nbkit") or {}
    if carried.get("kind") != "verdict":
        return None
    return f"{carried.get('claim')} {carried.get('verdict')}"


def _png(output: Mapping[str, Any]) -> tuple[str, str] | None:
    """The picture of an output and its own alternative text, unless it is of a live lab."""
    metadata = output.get("metadata") or {}
    png = (output.get("data") or {}).get("image/png")
    if not png or (metadata.get("nbkit") or {}).get("kind") == "stops":
        return None
    told = (metadata.get("image/png") or {}).get("alt", "")
    return "".join(png), str(told)


def thumbnail(png: str, *, alt: str, width: int = WIDTH) -> Picture:
    """A PNG in base64, made small: on white, no wider than `width`, in few colours.

    Raises:
        OSError: if it is no picture.
        ValueError: if it is not base64.
    """
    with Image.open(io.BytesIO(base64.b64decode(png, validate=False))) as image:
        layered = image.convert("RGBA")
    flat = Image.new("RGB", layered.size, "white")
    flat.paste(layered, mask=layered.getchannel("A"))
    if flat.width > width:
        height = max(1, round(flat.height * width / flat.width))
        flat = flat.resize((width, height), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    flat.quantize(COLORS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
    return Picture(source, alt, *flat.size)
