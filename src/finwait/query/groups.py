"""Groups of a count: what tells them apart, their order, and folding the small ones. A count in the kernel has no NumPy."""

from __future__ import annotations

from finwait.errors import UsageError
from finwait.table.columns import parse_column
from finwait.table.owners import OWNER_COLUMNS, PROCESS
from finwait.table.snapshot import Group
from finwait.tcp.state import LIFE_ORDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from finwait.table.snapshot import Cell

_RANK_BY_TOKEN = {state.token: rank for rank, state in enumerate(LIFE_ORDER)}
_PROCESS_COLUMNS = frozenset({"process", "pid", "fd"})
_NAMING_COLUMNS = frozenset({"container", "unit"})


def by_owner(by: Sequence[str]) -> bool:
    """Whether a count by the columns `by` is one by owner, whose groups without an owner say why."""
    return not OWNER_COLUMNS.isdisjoint(by)


def owned_key(by: Sequence[str], cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """`cells` are a key by `by` and then owner_kind and matched_by: as they tell groups apart. Where a column names an owner,
    why another row has none does not matter; nor how it was found, where processes are not asked for.
    """  # fmt: skip
    telling = _PROCESS_COLUMNS.intersection(by) or _NAMING_COLUMNS
    named = any(cell is not None for name, cell in zip(by, cells, strict=False) if name in telling)
    kind, matched_by = cells[-2:]
    if named:
        kind = PROCESS
    return (*cells[:-2], kind, matched_by if _PROCESS_COLUMNS.intersection(by) and kind == PROCESS else None)


def groups_of(by: Sequence[str], count_by_key: Mapping[tuple[Cell, ...], int]) -> list[Group]:
    """Groups from counts by key, behind which owner_kind and matched_by stand where the count is by owner."""
    if not by_owner(by):
        return [Group(key, count) for key, count in count_by_key.items()]
    return [
        Group(key[:-2], count, None if key[-2] is None else str(key[-2]), None if key[-1] is None else str(key[-1]))
        for key, count in count_by_key.items()
    ]


def sorted_by_size(groups: Iterable[Group]) -> list[Group]:
    """The largest first; equal ones in order of their keys."""
    return sorted(
        groups, key=lambda group: (-group.count, tuple(map(order_of_cell, group.key)), order_of_cell(group.owner_kind))
    )


def order_of_cell(cell: Cell) -> tuple[int, int | float, str]:
    """A sort key that orders nulls before numbers before text."""
    if cell is None:
        return (0, 0, "")
    return (2, 0, cell) if isinstance(cell, str) else (1, cell, "")


def parse_group_order(text: str, by: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """(``count`` or a column of `by`, whether descending) of ``count,-state``. Raises UsageError."""
    order = []
    for word in text.split(","):
        name = word.strip().removeprefix("-")
        column = name if name == "count" or not name else parse_column(name).name
        if column not in {"count", *by}:
            raise UsageError("--sort {name}: the groups have count and {by}", name=name or "''", by=", ".join(by))
        order.append((column, word.strip().startswith("-")))
    return tuple(order)


def sorted_groups(groups: Sequence[Group], by: Sequence[str], order: Sequence[tuple[str, bool]]) -> list[Group]:
    """`groups` in `order`; those without a value come last either way, states go in the order of a connection's life.
    Equal ones keep their order.
    """  # fmt: skip
    ordered = list(groups)
    for name, descending in reversed(order):
        if name == "count":
            ordered.sort(key=lambda group: group.count, reverse=descending)
            continue
        at = tuple(by).index(name)
        known = [group for group in ordered if group.key[at] is not None]
        unknown = [group for group in ordered if group.key[at] is None]
        rank = _rank_of_state if name == "state" else order_of_cell
        known.sort(key=lambda group, at=at, rank=rank: rank(group.key[at]), reverse=descending)  # type: ignore[misc]
        ordered = known + unknown
    return ordered


def _rank_of_state(token: Cell) -> tuple[int, int | float, str]:
    return (1, _RANK_BY_TOKEN[str(token)], "")


def fold_small_groups(groups: list[Group], top: int | None) -> tuple[list[Group], int | None, int | None]:
    """The first `top` groups, and how many rows and groups were folded into "other" (None where none were asked to be)."""
    if top is None:
        return groups, None, None
    folded = groups[top:]
    return groups[:top], sum(group.count for group in folded), len(folded)
