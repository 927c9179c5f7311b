"""Line charts as inline SVG, each with its numbers as a table.

The drawing stretches with the page, so names, numbers and times stand beside it as text. Nothing has a style attribute:
the Content-Security-Policy forbids them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from math import ceil, floor, log10

from markupsafe import Markup

WIDTH, HEIGHT = 600, 100  # of the drawing's own coordinates; the page stretches it
STEPS_UP = 4  # at most: lines across, above the lowest
TICKS_ALONG = 4  # times below, besides the first
_DURATIONS = (15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 3 * 3_600, 6 * 3_600, 12 * 3_600, 86_400)

Value = float | None
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """A line: its name and one value for each time; None where nothing is known, which leaves a gap."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One or two lines over slots of time, of which `times` are the beginnings.

    `written`: how a value is written, with its unit. `round_step`: see `scale`.
    """

    title: str
    times: Sequence[datetime]
    slot: timedelta
    series: Sequence[Series]
    written: Format
    round_step: Callable[[float], float] = lambda least: round_number(least)

    def markup(self) -> Markup:
        """The chart as a <figure>."""
        if len(self.times) == 0:
            return Markup('<figure class="chart"><figcaption><strong>{}</strong></figcaption></figure>').format(self.title)
        top, step = scale([value for line in self.series for value in line.values], self.round_step)
        return Markup(
            '<figure class="chart"><figcaption><strong>{title}</strong>{legend}<span class="latest">{latest}</span>'
            '</figcaption><div class="plot"><div class="up" aria-hidden="true">{up}</div>{drawing}'
            '<div class="along" aria-hidden="true">{along}</div></div><p class="readout" aria-hidden="true"></p>{table}</figure>'
        ).format(
            title=self.title,
            legend=self._legend(),
            latest=self._latest(),
            up=_joined(Markup("<span>{}</span>").format(self.written(top - step * n)) for n in range(round(top / step) + 1)),
            drawing=self._drawing(top, step),
            along=self._along(),
            table=self._table(),
        )

    def summary(self) -> str:
        """What the chart shows, in words: for each line the latest, the lowest and the highest value."""
        return f"{self.title}. " + " ".join(self._in_words(line) for line in self.series)

    def _in_words(self, line: Series) -> str:
        known = [value for value in line.values if value is not None]
        if not known:
            return f"{line.name}: nothing known."
        least, most = self.written(min(known)), self.written(max(known))
        return f"{line.name}: latest {self._written(line.values[-1])}, lowest {least}, highest {most}."

    def _written(self, value: Value) -> str:
        return "unknown" if value is None else self.written(value)

    def _latest(self) -> str:
        return ", ".join("-" if line.values[-1] is None else self.written(line.values[-1]) for line in self.series)

    def _legend(self) -> Markup:
        if len(self.series) == 1:
            return Markup("")
        keys = (Markup('<span class="key series-{}">{}</span>').format(n, line.name) for n, line in enumerate(self.series, 1))
        return Markup('<span class="legend">{}</span>').format(_joined(keys))

    def _drawing(self, top: float, step: float) -> Markup:
        lines = (
            Markup('<path class="grid" d="M0 {y}H{width}"/>').format(y=_y(step * n, top), width=WIDTH)
            for n in range(round(top / step) + 1)
        )
        drawn = (
            Markup('<g class="series-{}">{}</g>').format(n, self._line(line, top, filled=n == 1))
            for n, line in enumerate(self.series, 1)
        )
        return Markup(
            '<svg role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}{}{}</svg>'
        ).format(self.summary(), WIDTH, HEIGHT, _joined(lines), _joined(drawn), _joined(self._hits()))

    def _line(self, line: Series, top: float, *, filled: bool) -> Markup:
        """A path for each run of known values. A single one between gaps becomes a dot, by its round ends."""
        points = [(self._x(index), value) for index, value in enumerate(line.values)]
        path: list[str] = []
        area: list[str] = []
        for is_known, run in groupby(points, key=lambda point: point[1] is not None):
            if is_known:
                run_points = [(x, _y(value or 0, top)) for x, value in run]
                along = "L".join(f"{x} {y}" for x, y in run_points)
                path.append(f"M{along}" + ("h0" if len(run_points) == 1 else ""))
                area.append(f"M{run_points[0][0]} {HEIGHT}L{along}V{HEIGHT}Z")
        below = Markup('<path class="area" d="{}"/>').format("".join(area)) if filled else ""
        return Markup('{}<path class="line" d="{}"/>').format(below, "".join(path))

    def _hits(self) -> Iterator[Markup]:
        """What the pointer finds: a column for each time, with the values in words."""
        width = WIDTH / len(self.times)
        for index, at in enumerate(self.times):
            said = ", ".join(self._named(line, line.values[index]) for line in self.series)
            yield Markup('<rect class="hit" x="{}" y="0" width="{}" height="{}" data-at="{}" data-said="{}"/>').format(
                _short(index * width), _short(width), HEIGHT, _iso(at), said
            )

    def _named(self, line: Series, value: Value) -> str:
        return self._written(value) if len(self.series) == 1 else f"{line.name} {self._written(value)}"

    def _x(self, index: int) -> float:
        return _short(WIDTH * (index + 0.5) / len(self.times))

    def _along(self) -> Markup:
        """Times in equal distances, from the beginning of the first slot to the end of the last."""
        first, last = self.times[0], self.times[-1] + self.slot
        ticks = (first + (last - first) * n / TICKS_ALONG for n in range(TICKS_ALONG + 1))
        return _joined(_minute(tick) for tick in ticks)

    def _table(self) -> Markup:
        heads = _joined(Markup('<th scope="col" class="number">{}</th>').format(line.name) for line in self.series)
        rows = (self._row(index) for index in reversed(range(len(self.times))))
        return Markup(
            '<details><summary>Numbers</summary><div class="table"><table><caption class="hidden">{}</caption>'
            '<thead><tr><th scope="col">Time</th>{}</tr></thead><tbody>{}</tbody></table></div></details>'
        ).format(self.title, heads, _joined(rows))

    def _row(self, index: int) -> Markup:
        cells = (
            Markup('<td class="number" data-label="{}">{}</td>').format(line.name, _dash(line.values[index], self.written))
            for line in self.series
        )
        return Markup('<tr><th scope="row" data-label="Time">{}</th>{}</tr>').format(_minute(self.times[index]), _joined(cells))


def scale(values: Sequence[Value], round_step: Callable[[float], float]) -> tuple[float, float]:
    """The top of an axis from 0 that holds the values, and the distance of its lines, of which there are few.

    `round_step`: the next round number that is not smaller. With nothing above 0, the axis has one step.
    """
    most = max((value for value in values if value is not None), default=0.0)
    step = round_step(most / STEPS_UP if most > 0 else 1.0)
    return step * max(1, ceil(most / step - 1e-9)), step


def round_number(least: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10, times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(power * number for number in (1, 2, 2.5, 5, 10) if power * number >= least)


def round_count(least: float) -> float:
    """The next round number of things that cannot be divided."""
    return next((float(number) for number in (1, 2, 5) if number >= least), None) or round_number(least)


def round_duration(least: float) -> float:
    """The next round number of seconds, minutes, hours or days."""
    if least <= 10:
        return round_number(least)
    return next((float(step) for step in _DURATIONS if step >= least), None) or 86_400 * round_number(least / 86_400)


def _y(value: float, top: float) -> float:
    return _short(HEIGHT * (1 - min(value, top) / top))


def _short(value: float) -> float:
    return round(value, 2)


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")


def _minute(at: datetime) -> Markup:
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}" data-form="minute" title="{}">{}</time>').format(
        _iso(at), f"{utc:%Y-%m-%d %H:%M} UTC", f"{utc:%H:%M}"
    )


def _dash(value: Value, written: Format) -> str:
    return "-" if value is None else written(value)


def _joined(parts: Iterator[Markup]) -> Markup:
    return Markup("").join(parts)
