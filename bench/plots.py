"""Plots as plain SVG, drawn by hand: readable in a browser and in a diff, on light and dark pages."""

import math
from collections.abc import Sequence
from html import escape

INK, FAINT, GOOD, AIM, BAD = "#57606a", "#d0d7de", "#2f81f7", "#2da44e", "#cf222e"


def _svg(width: int, height: int, parts: list[str], title: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="{escape(title)}">\n'
        f"<title>{escape(title)}</title>\n{body}\n</svg>\n"
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" rx="2" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}" fill="none"{dashes}/>'


def against_bars(rows: Sequence[tuple[str, float, str, float, float | None]], title: str) -> str:
    """Each row (name, value, unit, bar, aim) as a part of its bar: full width is the bar."""
    left, full, step = 130, 420, 26
    height = 50 + step * len(rows)
    parts = [_text(10, 20, title, bold=True), _line(left + full, 34, left + full, height - 8, INK)]
    parts.append(_text(left + full, 30, "bar", anchor="middle"))
    for place, (name, value, unit, bar, aim) in enumerate(rows):
        y = 40 + place * step
        share = value / bar
        colour = BAD if share > 1 else AIM if aim is not None and value <= aim else GOOD
        parts.append(_text(left - 8, y + 13, name, anchor="end"))
        parts.append(_box(left, y, min(share, 1.25) * full, 18, colour))
        if aim is not None:
            at = left + aim / bar * full
            parts.append(_line(at, y - 2, at, y + 20, INK, "2 2"))
        parts.append(_text(left + full * 1.27, y + 13, f"{value:.3g} {unit} of {bar:g}"))
    return _svg(left + int(full * 1.27) + 140, height, parts, title)


def logarithmic(rows: Sequence[tuple[str, float]], unit: str, title: str) -> str:
    """One bar for each (name, value) on a logarithmic scale; the first is ours."""
    left, full, step = 190, 420, 26
    low = 10 ** math.floor(math.log10(min(value for _, value in rows)))
    high = 10 ** math.ceil(math.log10(max(value for _, value in rows)))
    decades = math.log10(high / low)
    height = 60 + step * len(rows)
    parts = [_text(10, 20, title, bold=True)]
    for decade in range(int(decades) + 1):
        x = left + full * decade / decades
        parts += [_line(x, 34, x, height - 22, FAINT), _text(x, height - 6, f"{low * 10**decade:g}", anchor="middle")]
    for place, (name, value) in enumerate(rows):
        y = 40 + place * step
        parts.append(_text(left - 8, y + 13, name, anchor="end", bold=place == 0))
        width = full * math.log10(value / low) / decades
        parts.append(_box(left, y, width, 18, AIM if place == 0 else GOOD))
        parts.append(
            _text(left + width + 6, y + 13, f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}")
        )
    return _svg(left + full + 100, height, parts, title)


def percentiles(values: Sequence[float], bar: float, title: str) -> str:
    """*values*: milliseconds at 0 to 100 %; the curve, and the bar at 99 %."""
    left, top, width, height = 60, 40, 520, 200
    ceiling = max(bar * 1.1, values[99])
    parts = [_text(10, 20, title, bold=True)]
    for percent in range(0, 101, 20):
        x = left + width * percent / 100
        parts += [_line(x, top, x, top + height, FAINT), _text(x, top + height + 18, f"{percent} %", anchor="middle")]
    for share in range(5):
        y = top + height * (1 - share / 4)
        parts += [_line(left, y, left + width, y, FAINT)]
        parts += [_text(left - 6, y + 4, f"{ceiling * share / 4:.2g} ms", anchor="end")]
    points = [
        f"{left + width * place / 100:.1f} {top + height * (1 - min(value / ceiling, 1)):.1f}"
        for place, value in enumerate(values)
    ]
    parts.append(f'<path d="M{"L".join(points)}" stroke="{GOOD}" stroke-width="2" fill="none"/>')
    y = top + height * (1 - bar / ceiling)
    parts += [_line(left, y, left + width, y, BAD, "4 3"), _text(left + 6, y - 5, f"bar for 99 %: {bar:g} ms")]
    return _svg(left + width + 30, top + height + 30, parts, title)
