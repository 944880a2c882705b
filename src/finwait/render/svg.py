"""What the SVG pictures are made of: escaping, widths, lines with round corners, one style for light and dark.

No custom properties and nothing else that librsvg, Inkscape or a wiki would not draw: classes, and a media query for the dark.
"""

from __future__ import annotations

import re

from finwait.render.labels import MUST_ACT, WHO_ORDER
from finwait.text.messages import language_in_use, translate
from finwait.text.width import display_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Point = tuple[float, float]

RADIUS = 10  # px, of a line's turn
TEXT_SIZE = 14  # px
# px that a cell takes at a size of 1, at most: of DejaVu Sans, the widest font that a desktop falls back to. A Chinese
# character takes two cells and is one em wide.
CELL_EM, BOLD_CELL_EM = 0.61, 0.7
FONTS = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", '
    "sans-serif"
)
# Colours by class: (property, light, dark). A tint lies under text, its line around it.
_COLORS: dict[str, tuple[str, str, str]] = {
    "page": ("fill", "#ffffff", "#0d1117"),
    "ink": ("fill", "#1f2328", "#e6edf3"),
    "muted": ("fill", "#59636e", "#9198a1"),
    "line": ("stroke", "#57606a", "#8b949e"),
    "head": ("fill", "#57606a", "#8b949e"),
    "faint": ("stroke", "#d1d9e0", "#30363d"),
    "lost": ("stroke", "#cf222e", "#ff7b72"),
    "program": ("fill", "#cf222e", "#ff7b72"),
    "peer": ("fill", "#b27a00", "#e3b341"),
    "clock": ("fill", "#0969da", "#58a6ff"),
    "nobody": ("fill", "#1a7f37", "#3fb950"),
    "over": ("fill", "#818b98", "#656c76"),
    "edge-program": ("stroke", "#cf222e", "#ff7b72"),
    "edge-peer": ("stroke", "#b27a00", "#e3b341"),
    "edge-clock": ("stroke", "#0969da", "#58a6ff"),
    "edge-nobody": ("stroke", "#1a7f37", "#3fb950"),
    "edge-over": ("stroke", "#818b98", "#656c76"),
}
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def escape(text: str) -> str:
    """`text` for an element or an attribute; what XML cannot hold becomes U+FFFD."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text.translate(_ESCAPES)


def text_width(text: str, size: float = TEXT_SIZE, *, bold: bool = False) -> float:
    """Px that `text` takes at most, at a font size of `size` px."""
    return sum(
        size * (1 if cells == 2 else cells * (BOLD_CELL_EM if bold else CELL_EM)) for cells in map(display_width, text)
    )


def wrap(content: str, room: float, size: float = TEXT_SIZE) -> list[str]:
    """`content` in lines of at most `room` px: broken at spaces, and between Chinese characters."""
    lines, line = [], ""
    for piece in re.findall(r"[\u2e80-\uffef]\s*|[^\s\u2e80-\uffef]+\s*", content):
        if line and text_width(f"{line}{piece}".rstrip(), size) > room:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def document(name: str, size: tuple[int, int], title: str, description: str, parts: Iterable[str]) -> Iterator[str]:
    """The lines of a picture. size: width and height in px. title, description: what a screen reader says."""
    width, height = size
    ids = f"finwait-{name}"
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="finwait" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" lang="{language_in_use().replace("_", "-")}" '
        f'aria-labelledby="{ids}-title {ids}-desc">'
    )
    yield f'<title id="{ids}-title">{escape(title)}</title>'
    yield f'<desc id="{ids}-desc">{escape(description)}</desc>'
    yield "<style>"
    yield from _style()
    yield "</style>"
    yield (
        f'<defs><marker id="{ids}-head" markerUnits="userSpaceOnUse" markerWidth="12" markerHeight="10" refX="10" '
        'refY="5" orient="auto"><path class="head" d="M0 0.5L11 5L0 9.5L2.5 5Z"/></marker></defs>'
    )
    yield f'<rect class="page" width="{width}" height="{height}" rx="12"/>'
    yield from parts
    yield "</svg>"


def _style() -> Iterator[str]:
    yield f".finwait text {{ font-family: {FONTS}; font-size: {TEXT_SIZE}px; }}"
    yield ".finwait .bold { font-weight: 700; } .finwait .call { font-style: italic; }"
    yield ".finwait .number { font-weight: 700; font-variant-numeric: tabular-nums; }"
    yield ".finwait .middle { text-anchor: middle; } .finwait .end { text-anchor: end; }"
    yield ".finwait .line, .finwait .faint, .finwait .lost { fill: none; stroke-width: 1.6; }"
    yield ".finwait .dashed { stroke-dasharray: 5 4; } .finwait .hollow { fill: none; stroke-width: 2; }"
    for name, (what, light, _) in _COLORS.items():
        yield f".finwait .{name} {{ {what}: {light}; }}"
    yield "@media (prefers-color-scheme: dark) {"
    for name, (what, _, dark) in _COLORS.items():
        yield f"  .finwait .{name} {{ {what}: {dark}; }}"
    yield "}"


def text(x: float, y: float, content: str, *classes: str, more: str = "") -> str:
    """Text whose baseline begins (classes ``middle``, ``end``: lies, ends) at a point. more: further attributes."""
    return f'<text x="{x:g}" y="{y:g}" class="{" ".join(classes or ("ink",))}"{more}>{escape(content)}</text>'


def arrow(name: str, points: Sequence[Point], *, opacity: float = 1) -> str:
    """A line through `points`, its turns round, with a head; name: of the picture that it is in."""
    more = "" if opacity == 1 else f' opacity="{opacity:g}"'
    return f'<path class="line" d="{_rounded(points)}" marker-end="url(#finwait-{name}-head)"{more}/>'


def _rounded(points: Sequence[Point]) -> str:
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, turn, after in zip(points, points[1:], points[2:], strict=False):
        (x, y), (end_x, end_y) = _towards(turn, before), _towards(turn, after)
        parts.append(f"L{x:g} {y:g}Q{turn[0]:g} {turn[1]:g} {end_x:g} {end_y:g}")
    return "".join(parts) + f"L{points[-1][0]:g} {points[-1][1]:g}"


def _towards(start: Point, end: Point) -> Point:
    """RADIUS px from `start` towards `end`, on a horizontal or a vertical, half-way at most."""
    (x, y), (dx, dy) = start, (end[0] - start[0], end[1] - start[1])
    part = min(RADIUS / (abs(dx) + abs(dy)), 0.5)
    return x + dx * part, y + dy * part


def who_sign(who: str, x: float, y: float) -> str:
    """A sign of 12 px for whoever must act, its middle at a point: nobody must tell them apart by colour."""
    if who == "program":
        return f'<rect class="program" x="{x - 5:g}" y="{y - 5:g}" width="10" height="10" rx="2"/>'
    if who == "peer":
        return f'<path class="peer" d="M{x - 6:g} {y:g}L{x:g} {y - 6:g}L{x + 6:g} {y:g}L{x:g} {y + 6:g}Z"/>'
    if who == "clock":
        hands = f'<path class="hollow edge-clock" d="M{x:g} {y - 3.5:g}V{y:g}H{x + 3:g}" style="stroke-width:1.5"/>'
        return f'<circle class="hollow edge-clock" cx="{x:g}" cy="{y:g}" r="5.5" style="stroke-width:1.5"/>{hands}'
    return f'<circle class="{who}" cx="{x:g}" cy="{y:g}" r="4"/>'


def legend(width: float, y: float) -> Iterator[str]:
    """Who must act, a sign and words each, in the middle of a line of `width` px whose baseline is at `y`."""
    words = [translate(MUST_ACT[who]) for who in WHO_ORDER]
    widths = [18 + text_width(word) for word in words]
    x = (width - sum(widths) - 26 * (len(words) - 1)) / 2
    for who, word, wide in zip(WHO_ORDER, words, widths, strict=True):
        yield who_sign(who, round(x + 6, 1), y - 4.5)
        yield text(round(x + 18, 1), y, word, "muted")
        x += wide + 26
