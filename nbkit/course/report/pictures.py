"""Take small pictures for a report from the executed notebooks.

A report shows the last picture before a lesson's first verdict, which shows what was measured, and
the pictures of the cells that give the verdicts. The stops of a live lab are left out.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nbkit.course.report.read import DamagedFile, StoredRecord

PER_LESSON = 3
WIDTH = 720  # pixels: sharp on a phone, and the picture in full size is a click away
COLORS = 48  # enough for plots, and a fraction of the bytes of full colour
ROOM = 1_100_000  # characters that all pictures of a page may take together


@dataclass(frozen=True)
class Thumbnail:
    """A small PNG as a data URI, its description in words, and its size in pixels."""

    source: str
    alt: str
    width: int
    height: int


# The key is (number of the run, name of the lesson's files).
Pictures = Mapping[tuple[int, str], Sequence[Thumbnail]]


def collect_pictures(
    runs: Sequence[Sequence[StoredRecord]], room: int = ROOM
) -> tuple[dict[tuple[int, str], list[Thumbnail]], list[DamagedFile], int]:
    """Collect the pictures of each lesson in each run.

    Args:
        runs: the records of each run; the executed notebooks lie beside them.
        room: characters that all pictures may take together. Each lesson gets its first picture
            before any lesson gets its second one.
    Returns:
        the pictures by (number of the run, name of the lesson's files); the notebooks and pictures
        that could not be read; the number of pictures for which there was no room.
    """
    found: dict[tuple[int, str], list[Thumbnail]] = {}
    damaged: list[DamagedFile] = []
    for number, run in enumerate(runs):
        for stored in run:
            path = stored.find_file(".ipynb")
            if path is not None:
                found[number, stored.name] = _read_thumbnails(path, stored.name, damaged)

    kept: dict[tuple[int, str], list[Thumbnail]] = {key: [] for key in found}
    left_out = 0
    for rank in range(PER_LESSON):
        for key, pictures in found.items():
            if rank >= len(pictures):
                continue
            size = len(pictures[rank].source)
            if size <= room:
                room -= size
                kept[key].append(pictures[rank])
            else:
                left_out += 1
    return kept, damaged, left_out


def _read_thumbnails(path: Path, name: str, damaged: list[DamagedFile]) -> list[Thumbnail]:
    """Read the pictures of an executed notebook; append what cannot be read to `damaged`."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        chosen = choose_pictures(cells)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"not a notebook ({type(error).__name__}: {error})"
        damaged.append(DamagedFile(str(path), problem))
        return []
    thumbnails = []
    for png, alt in chosen[:PER_LESSON]:
        try:
            thumbnails.append(make_thumbnail(png, alt=alt or f"What {name} measured."))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            # Pillow raises SyntaxError for a broken PNG.
            damaged.append(DamagedFile(str(path), f"a picture cannot be read ({error})"))
    return thumbnails


def choose_pictures(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Choose the pictures of a notebook that a report shows.

    Returns:
        for each picture the PNG in base64, and its description in words, which may be empty.
    """
    before: tuple[str, str] | None = None
    with_verdicts: list[tuple[str, str]] = []
    judged = False
    for cell in cells:
        verdicts, pictures = _read_outputs(cell.get("outputs") or [])
        if verdicts:
            judged = True
            # A picture beside a verdict draws its interval; say so unless it describes itself.
            default = f"Intervals and margins: {', '.join(verdicts)}."
            for png, alt in pictures:
                with_verdicts.append((png, alt or default))
        elif pictures and not judged:
            before = pictures[-1]
    if not judged:
        return []
    return [before, *with_verdicts] if before else with_verdicts


def _read_outputs(
    outputs: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[tuple[str, str]]]:
    """Read the verdicts and the pictures of one cell."""
    verdicts, pictures = [], []
    for output in outputs:
        if verdict := _read_verdict_output(output):
            verdicts.append(verdict)
        if picture := _read_picture_output(output):
            pictures.append(picture)
    return verdicts, pictures


def _read_verdict_output(output: Mapping[str, Any]) -> str | None:
    """Return `claim VERDICT` if an output is a verdict, or the word for verdict cards."""
    carried = (output.get("metadata") or {}).get("nbkit") or {}
    if carried.get("kind") == "cards":
        return "verdict cards"
    if carried.get("kind") != "verdict":
        return None
    return f"{carried.get('claim')} {carried.get('verdict')}"


def _read_picture_output(output: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the PNG of an output and its own description, unless it shows a live lab's stops."""
    metadata = output.get("metadata") or {}
    png = (output.get("data") or {}).get("image/png")
    if not png or (metadata.get("nbkit") or {}).get("kind") == "stops":
        return None
    alt = (metadata.get("image/png") or {}).get("alt", "")
    return "".join(png), str(alt)  # the notebook format allows a list of lines


def make_thumbnail(png: str, *, alt: str, width: int = WIDTH) -> Thumbnail:
    """Shrink a PNG in base64: on white, no wider than `width` pixels, in few colours.

    Raises:
        OSError: if it is not a picture.
        ValueError: if it is not base64.
    """
    with Image.open(io.BytesIO(base64.b64decode(png, validate=False))) as image:
        layered = image.convert("RGBA")
    # The page may be dark, and plots have dark axes on a transparent background.
    flat = Image.new("RGB", layered.size, "white")
    flat.paste(layered, mask=layered.getchannel("A"))
    if flat.width > width:
        height = max(1, round(flat.height * width / flat.width))
        flat = flat.resize((width, height), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    flat.quantize(COLORS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
    return Thumbnail(source, alt, *flat.size)
