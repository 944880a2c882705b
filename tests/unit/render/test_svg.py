"""The SVG pictures: well formed, complete, self-contained; no text overlaps another, leaves its box or is crossed by a line."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise
from math import cos, radians, sin
from typing import TYPE_CHECKING

import pytest

from finwait.render import state_svg, svg
from finwait.render.labels import MUST_ACT, arrow_label
from finwait.render.rates import Rates, rates_notes
from finwait.render.sequence_svg import LIFE, WIDTH, rows_of, sequence_svg
from finwait.render.state_graph import shown_arrows
from finwait.render.state_svg import BOX_HEIGHT, BOX_WIDTH, PLACES, ROUTES, states_svg
from finwait.render.state_text import ARROWS
from finwait.tcp.exchanges import CLIENT, EXCHANGES, SEGMENT
from finwait.tcp.state import TcpState
from finwait.text.messages import translate, use_language
from finwait.text.width import display_width

if TYPE_CHECKING:
    from collections.abc import Iterator

    Point = tuple[float, float]
    Polygon = tuple[Point, ...]

NAMESPACE = "{http://www.w3.org/2000/svg}"
MANY = {state: 1_000_003 * int(state) for state in TcpState}
FEW = {TcpState.ESTABLISHED: 16, TcpState.CLOSE_WAIT: 23, TcpState.LISTEN: 3}
ROUTED = [(route.state, route.to) for route in ROUTES]
# A rate of each arrow, and changes that have none.
RATED = Rates({**dict.fromkeys(ROUTED, 3), (TcpState.ESTABLISHED, TcpState.CLOSE): 2}, 2.0)
SLOW = Rates(dict.fromkeys(ROUTED, 1), 81_300.0)  # the longest text that there is
FAINT = Rates({(TcpState.CLOSE_WAIT, TcpState.LAST_ACK): 23}, 2.0)
DEFAULT_SIZE = svg.TEXT_SIZE
# Em that a cell takes, as measured of DejaVu Sans, which is wider than any font of a desktop. Two cells are one em.
EM, BOLD_EM = 0.6, 0.69


@pytest.fixture(params=["en", "zh_CN"])
def language(request: pytest.FixtureRequest) -> Iterator[str]:
    use_language(request.param)
    yield request.param
    use_language("en")


class Text:
    """A text element: where its cells lie, a little smaller than its line, so that neighbours may touch."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.content = element.text or ""
        classes = (element.get("class") or "").split()
        found = re.search(r"font-size:([\d.]+)px", element.get("style") or "")
        self.size = float(found[1]) if found else DEFAULT_SIZE
        em = BOLD_EM if {"bold", "number"} & set(classes) else EM
        width = sum(self.size * (1 if cells == 2 else em * cells) for cells in map(display_width, self.content))
        x, y = float(element.get("x", "")), float(element.get("y", ""))
        left = x - (width / 2 if "middle" in classes else width if "end" in classes else 0)
        top, bottom = y - 0.72 * self.size, y + 0.1 * self.size
        corners = ((left, top), (left + width, top), (left + width, bottom), (left, bottom))
        turn = re.fullmatch(r"rotate\(([-\d.]+) ([\d.]+) ([\d.]+)\)", element.get("transform") or "rotate(0 0 0)")
        assert turn is not None
        self.corners = tuple(_turned(corner, float(turn[1]), (float(turn[2]), float(turn[3]))) for corner in corners)

    def __repr__(self) -> str:
        return self.content


def _turned(point: Point, angle: float, center: Point) -> Point:
    dx, dy, turn = point[0] - center[0], point[1] - center[1], radians(angle)
    return (center[0] + dx * cos(turn) - dy * sin(turn), center[1] + dx * sin(turn) + dy * cos(turn))


def are_apart(one: Polygon, other: Polygon) -> bool:
    """Whether two convex polygons (a line has two corners) do not touch: some edge's normal separates them."""
    for polygon in (one, other):
        for (x, y), (to_x, to_y) in pairwise((*polygon, polygon[0])):
            normal = (y - to_y, to_x - x)
            first, second = (
                [normal[0] * corner[0] + normal[1] * corner[1] for corner in corners] for corners in (one, other)
            )
            if max(first) < min(second) or max(second) < min(first):
                return True
    return False


def parsed(lines: Iterator[str]) -> ElementTree.Element:
    return ElementTree.fromstring("\n".join(lines))


def texts_of(root: ElementTree.Element) -> list[Text]:
    return [Text(element) for element in root.iter(f"{NAMESPACE}text")]


def lines_of(root: ElementTree.Element) -> list[tuple[Point, Point]]:
    """The straight pieces of every arrow; its turns are cut short by a curve."""
    pieces = []
    for path in root.iter(f"{NAMESPACE}path"):
        if path.get("class") == "line":
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d") or "")]
            pieces += list(pairwise(zip(numbers[::2], numbers[1::2], strict=True)))
    return pieces


def boxes_of(root: ElementTree.Element) -> list[Polygon]:
    boxes = []
    for box in root.iter(f"{NAMESPACE}rect"):
        x, y, width, height = (float(box.get(name) or 0) for name in ("x", "y", "width", "height"))
        boxes.append(((x, y), (x + width, y), (x + width, y + height), (x, y + height)))
    return boxes


def test_overlap_is_found() -> None:
    box = ((0, 0), (10, 0), (10, 10), (0, 10))
    assert are_apart(box, ((11, 0), (20, 0), (20, 10)))
    assert not are_apart(box, ((9, 9), (20, 9), (20, 20)))
    assert not are_apart(box, ((-5, 5), (15, 6)))
    assert are_apart(box, ((-5, 4), (5, 20)))  # past a corner


@pytest.mark.parametrize("counts", [None, MANY, FEW], ids=["no counts", "many", "few"])
@pytest.mark.usefixtures("language")
def test_no_text_of_the_states_overlaps_or_is_crossed(counts: dict[TcpState, int] | None) -> None:
    root = parsed(states_svg(counts))
    _assert_legible(root)
    for state, (x, y) in PLACES.items():
        group = root.find(f"{NAMESPACE}g[@id='finwait-state-{state.token}']")
        assert group is not None
        for text in texts_of(group):
            assert x + 6 <= min(corner[0] for corner in text.corners), text
            assert max(corner[0] for corner in text.corners) <= x + BOX_WIDTH - 6, text
            assert y <= min(corner[1] for corner in text.corners), text
            assert max(corner[1] for corner in text.corners) <= y + BOX_HEIGHT, text


@pytest.mark.parametrize("rates", [RATED, SLOW, FAINT], ids=["rated", "slow", "faint"])
@pytest.mark.usefixtures("language")
def test_no_text_overlaps_where_arrows_have_rates(rates: Rates) -> None:
    root = parsed(states_svg(MANY, [*rates_notes(rates, ROUTED)], rates))
    _assert_legible(root)
    texts = texts_of(root)
    for route in ROUTES:
        label, rate = arrow_label(route.state, route.event, route.to), rates.text_of(route.state, route.to)
        (place, below) = route.places()
        beside = [text for text in texts if text.content == label and _is_at(text, place, route.anchor)]
        told = [text for text in texts if text.content == rate and _is_at(text, below, route.anchor)]
        assert (len(beside), len(told)) == (1, 1), route.event


def _is_at(text: Text, point: Point, anchor: str) -> bool:
    left, right = text.corners[0][0], text.corners[1][0]
    x = {"start": left, "end": right, "middle": (left + right) / 2}[anchor]
    return abs(x - point[0]) < 0.01 and abs(text.corners[2][1] - 0.1 * text.size - point[1]) < 0.01


def test_an_arrow_that_nobody_took_is_faint() -> None:
    root = parsed(states_svg(MANY, [], FAINT))
    opacities = [path.get("opacity") for path in root.iter(f"{NAMESPACE}path") if path.get("class") == "line"]
    taken = [at for at, route in enumerate(ROUTES) if (route.state, route.to) in FAINT.changes]
    assert [at for at, opacity in enumerate(opacities) if opacity is None] == taken
    inks = {text.text: (text.get("class") or "").split()[0] for text in root.iter(f"{NAMESPACE}text")}
    assert (inks["11.5/s"], inks["0/s"], inks["connect() / SYN"]) == ("ink", "muted", "muted")
    description = root.find(f"{NAMESPACE}desc")
    assert description is not None
    assert "From CLOSE-WAIT to LAST-ACK: close() / FIN,ACK, 11.5/s." in (description.text or "")


@pytest.mark.usefixtures("language")
def test_notes_stand_below_the_picture_in_lines_that_fit() -> None:
    notes = ["64 sockets on <web&1>", "what could not be seen " * 20 + "at all", "无法看到的内容" * 30]
    root = parsed(states_svg(FEW, notes))
    _assert_legible(root)
    bare = len(texts_of(parsed(states_svg(FEW))))
    lines = [text.content for text in texts_of(root)[bare:]]
    assert "".join(lines).replace(" ", "") == "".join(notes).replace(" ", "")
    assert len(lines) > len(notes)
    description = root.find(f"{NAMESPACE}desc")
    assert description is not None
    assert notes[0] in (description.text or "")


@pytest.mark.parametrize("name", EXCHANGES)
@pytest.mark.usefixtures("language")
def test_no_text_of_an_exchange_overlaps_or_is_crossed(name: str) -> None:
    _assert_legible(parsed(sequence_svg(EXCHANGES[name])))


def _assert_legible(root: ElementTree.Element) -> None:
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    assert width <= 920
    texts = texts_of(root)
    for text in texts:
        assert text.size >= 12
        assert all(0 <= x <= width and 0 <= y <= height for x, y in text.corners), text
        assert [line for line in lines_of(root) if not are_apart(line, text.corners)] == [], text
        for box in boxes_of(root):  # a text lies in a box or outside of it
            inside = all(box[0][0] <= x <= box[2][0] and box[0][1] <= y <= box[2][1] for x, y in text.corners)
            assert inside or are_apart(box, text.corners), (text, box)
    assert [pair for pair in combinations(texts, 2) if not are_apart(pair[0].corners, pair[1].corners)] == []


def test_the_picture_draws_the_arrows_that_the_text_draws_and_no_box_lies_in_their_way() -> None:
    drawn = [(route.state, route.event, route.to) for route in ROUTES]
    assert sorted(drawn) == sorted((arrow.state, arrow.event, arrow.to) for arrow in ARROWS)
    assert set(drawn) <= {(one.state, one.event, one.to) for one in shown_arrows()}
    root = parsed(states_svg())
    contents = [text.content for text in texts_of(root)]
    for route in ROUTES:
        assert arrow_label(route.state, route.event, route.to) in contents
    assert len(list(root.iter(f"{NAMESPACE}path"))) > len(ROUTES)
    paths = [path for path in root.iter(f"{NAMESPACE}path") if path.get("class") == "line"]
    assert len(paths) == len(ROUTES)
    boxes = [_box(*place) for place in [*PLACES.values(), state_svg.END]]
    for line in lines_of(root):
        assert [box for box in boxes if not are_apart(line, _shrunk(box))] == []


def _box(x: float, y: float) -> Polygon:
    return ((x, y), (x + BOX_WIDTH, y), (x + BOX_WIDTH, y + BOX_HEIGHT), (x, y + BOX_HEIGHT))


def _shrunk(box: Polygon) -> Polygon:
    (left, top), (right, bottom) = box[0], box[2]
    return ((left + 1, top + 1), (right - 1, top + 1), (right - 1, bottom - 1), (left + 1, bottom - 1))


def test_every_route_begins_and_ends_at_its_boxes() -> None:
    for route in ROUTES:
        ends = [PLACES[route.to], *([state_svg.END] if route.to is TcpState.CLOSE else [])]
        assert not are_apart((route.points[0], route.points[0]), _box(*PLACES[route.state])), route.event
        assert any(not are_apart((route.points[-1], route.points[-1]), _box(*end)) for end in ends), route.event
        for (x, y), (to_x, to_y) in pairwise(route.points):
            assert x == to_x or y == to_y


def test_a_heavy_state_is_drawn_stronger_and_an_empty_one_grey() -> None:
    root = parsed(states_svg(FEW))
    looks = {}
    for state in TcpState:
        group = root.find(f"{NAMESPACE}g[@id='finwait-state-{state.token}']")
        assert group is not None
        looks[state] = [rect for rect in group.findall(f"{NAMESPACE}rect") if rect.get("class") != "page"]
    fills = {state: float(looks[state][0].get("fill-opacity") or 0) for state in FEW}
    widths = {state: float((looks[state][1].get("style") or "").removeprefix("stroke-width:")) for state in FEW}
    for values in (fills, widths):
        assert values[TcpState.CLOSE_WAIT] > values[TcpState.ESTABLISHED] > values[TcpState.LISTEN]
    assert [rect.get("class") for rect in looks[TcpState.CLOSE_WAIT][:2]] == ["program", "hollow edge-program"]
    assert [rect.get("class") for rect in looks[TcpState.CLOSING]] == ["faint"]


@pytest.mark.usefixtures("language")
def test_who_must_act_stands_there_in_words_and_signs() -> None:
    root = parsed(states_svg(FEW))
    contents = [text.content for text in texts_of(root)]
    for who, message in MUST_ACT.items():
        in_boxes = {"nobody": 2, "program": 1}.get(who, 0)
        assert contents.count(translate(message)) == 1 + in_boxes
    signs = {svg.who_sign(who, 0, 0) for who in MUST_ACT}
    shapes = {re.sub(r'class="[^"]*"', "", sign) for sign in signs}
    assert len(shapes) == len(MUST_ACT)  # not by colour alone


@pytest.mark.parametrize("name", EXCHANGES)
def test_every_step_of_an_exchange_is_drawn_where_it_happens(name: str) -> None:
    exchange = EXCHANGES[name]
    root = parsed(sequence_svg(exchange))
    rows = rows_of(exchange)
    segments = [(step, row) for step, row in zip(exchange.steps, rows[1:], strict=True) if step.kind == SEGMENT]
    arrows = lines_of(root)
    assert len(arrows) == len(segments)
    for (step, row), ((x, y), (to_x, to_y)) in zip(segments, arrows, strict=True):
        assert (x < to_x) == (step.end == CLIENT)
        assert y < to_y
        if step.arrives:
            assert to_y == row
            assert abs(to_x - LIFE["server" if step.end == CLIENT else "client"]) <= 4
        else:
            assert to_y < row
    assert sum(path.get("class") == "lost" for path in root.iter(f"{NAMESPACE}path")) == sum(
        not step.arrives for step, _ in segments
    )
    contents = " ".join(text.content for text in texts_of(root))
    for step in exchange.steps:
        assert (step.flags or "") in contents
        assert {step.client.rfc, step.server.rfc} <= set(contents.split())


@pytest.mark.parametrize("name", ["simultaneous_open", "simultaneous_close"])
def test_segments_of_both_ends_cross(name: str) -> None:
    first, second = lines_of(parsed(sequence_svg(EXCHANGES[name])))[:2]
    assert not are_apart(first, second)
    assert rows_of(EXCHANGES[name])[1] == rows_of(EXCHANGES[name])[2]


@pytest.mark.parametrize("lines", [states_svg(FEW), sequence_svg(EXCHANGES["close"])], ids=["states", "close"])
def test_a_picture_needs_nothing_else_and_speaks_to_a_screen_reader(lines: Iterator[str]) -> None:
    text = "\n".join(lines)
    root = ElementTree.fromstring(text)
    assert not re.search(r"<script|@import|@font-face|href|url\((?!#)|\son\w+=", text)
    title, description = root.find(f"{NAMESPACE}title"), root.find(f"{NAMESPACE}desc")
    assert title is not None
    assert description is not None
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert "CLOSE-WAIT" in (description.text or "")
    assert text.count("<style>") == 1 == text.count("@media (prefers-color-scheme: dark)")
    used = {name for element in root.iter() for name in (element.get("class") or "").split()}
    light, _, dark = text.partition("@media")
    coloured = {name for name in used if f".finwait .{name} {{ fill: #" in light or f".{name} {{ stroke: #" in light}
    assert len(coloured) >= 8
    assert all(f"  .finwait .{name} {{" in dark for name in coloured)


def test_the_page_of_a_sequence_is_as_wide_as_its_frame() -> None:
    assert LIFE["client"] == WIDTH - LIFE["server"]


def test_what_xml_cannot_hold_is_escaped() -> None:
    element = ElementTree.fromstring(svg.text(0, 0, '<a href="x">&\x1b\x00</a>', "ink"))
    assert element.text == '<a href="x">&\ufffd\ufffd</a>'
