"""The sliders' headless counterpart: run each declared stop of each knob, show them in rows."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbkit.lab.knobs import Knob, Value
from nbkit.lab.live.fitting import Fit, Fitting, find_knobs, read_seed_count, read_start
from nbkit.lab.live.picture import Picture

_HEAD = 42  # pixels above each picture, for two lines of text


@dataclass(frozen=True)
class Stop:
    """Record one stop of one knob, run while the other knobs keep their first values."""

    knob: str
    value: Value
    result: str
    printed: str
    png: bytes

    @property
    def label(self) -> str:
        """Name the knob and its value: `lr = 0.1`."""
        return f"{self.knob} = {format_value(self.value)}"


@dataclass(frozen=True)
class Stops:
    """Hold all stops of all knobs; a notebook shows them as one picture, a row for each knob.

    The visible text names the stops only. What fit returned may differ between machines, so it is
    stored in the output's metadata.
    """

    stops: tuple[Stop, ...]

    @property
    def caption(self) -> str:
        """Name the stops: `Stops: lr 0.01, 0.1; momentum 0, 0.9. Run the notebook to ...`."""
        rows = []
        for row in self.group_by_knob():
            values = ", ".join(format_value(stop.value) for stop in row)
            rows.append(f"{row[0].knob} {values}")
        return f"Stops: {'; '.join(rows)}. Run the notebook in JupyterLab to move sliders."

    def group_by_knob(self) -> list[list[Stop]]:
        """Group the stops: a list for each knob, in the order in which they were run."""
        rows: dict[str, list[Stop]] = {}
        for stop in self.stops:
            rows.setdefault(stop.knob, []).append(stop)
        return list(rows.values())

    def to_dict(self) -> dict[str, object]:
        """Return the result of each stop, ready for JSON; the pictures are left out."""
        stops = []
        for stop in self.stops:
            stops.append(
                {
                    "knob": stop.knob,
                    "value": stop.value,
                    "result": stop.result,
                    "printed": stop.printed,
                }
            )
        return {"kind": "stops", "stops": stops}

    def draw_png(self) -> bytes:
        """Draw one picture of all stops, a row for each knob."""
        return _draw_mosaic(self.group_by_knob())

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, object], dict[str, object]]:
        png = base64.b64encode(self.draw_png()).decode()
        data: dict[str, object] = {"image/png": png, "text/plain": self.caption}
        # JupyterLab reads the picture's alt text from the metadata.
        return data, {"nbkit": self.to_dict(), "image/png": {"alt": self.caption}}


def run_stops(
    fit: Fit,
    knobs: Mapping[str, Knob],
    start: Mapping[str, Value],
    *,
    figsize: tuple[float, float] = (3.6, 2.7),
    dpi: int = 100,
    seed: int = 0,
    seeds: int | None = None,
) -> Stops:
    """Run `fit` at every stop of every knob that it names, as a slider there would.

    Args:
        fit: a generator function `fit(fig, *, lr, ...)`; see `nbkit.lab.live.fitting`.
        knobs: what each parameter may be, and its stops.
        start: values of the other knobs meanwhile, by name.
        figsize: inches of one picture of the row.
        dpi: dots per inch.
        seed: of each run.
        seeds: number of seeds that each run trains, if fit takes them.
    Raises:
        TypeError, KnobError, ValueError: if fit, a value or the stops do not fit; nothing has been
            trained.

    An exception of fit is raised with a note that names the stop. A point that several knobs share
    is run once.
    """
    named = find_knobs(fit, knobs)
    count = read_seed_count(fit, seeds)
    values = read_start(named, start)
    if not any(knob.stops for knob in named.values()):
        raise ValueError(
            f"none of fit's knobs ({', '.join(named)}) declares stops to run headless: "
            f"say `{next(iter(named), 'lr')}=log(0.01, 1, stops=[0.1, 1])`."
        )

    picture = Picture(figsize, dpi)
    done: dict[tuple[Value, ...], tuple[str, str, bytes]] = {}
    stops = []
    for name, knob in named.items():
        for value in knob.stops:
            point = {**values, name: value}
            # Two knobs share a point where each of their stops is the other's start.
            key = tuple(point.values())
            if key not in done:
                label = f"{name} = {format_value(value)}"
                fitting = Fitting(fit, point, picture, seed=seed, count=count)
                done[key] = _run_point(fitting, picture, label)
            stops.append(Stop(name, value, *done[key]))
    return Stops(tuple(stops))


def format_value(value: Value) -> str:
    """Format a knob's value for a reader: three digits of a float."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _run_point(fitting: Fitting, picture: Picture, label: str) -> tuple[str, str, bytes]:
    """Run a fit to its end; return its result, what it printed, and its picture."""
    try:
        fitting.train_for()
    except Exception as error:
        error.add_note(f"The live lab's fit raised this at the stop {label}.")
        raise
    return fitting.result, fitting.printed.getvalue(), picture.draw_png()


def _draw_mosaic(rows: Sequence[Sequence[Stop]]) -> bytes:
    """Draw the pictures, all of one size, side by side; above each its stop and its result."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    width, height = Image.open(io.BytesIO(rows[0][0].png)).size
    height += _HEAD
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * width, len(rows) * height), "white")
    write = ImageDraw.Draw(sheet).text
    # matplotlib ships this font, so the sheet looks the same on every machine.
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
    for i, row in enumerate(rows):
        for j, stop in enumerate(row):
            left, top = j * width, i * height
            write((left + 8, top + 6), stop.label, fill="black", font=font)
            write((left + 8, top + 23), stop.result, fill="#666666", font=font)
            sheet.paste(Image.open(io.BytesIO(stop.png)), (left, top + _HEAD))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
