"""Columns as cells for people and programs: the machine's words and numbers, None for null."""

from __future__ import annotations

import numpy as np

from finwait.table.columns import (
    ADDRESS,
    BOOL,
    DECLARATION_BY_NAME,
    ENDPOINT,
    ENDPOINT_PARTS,
    FAMILY,
    FAMILY_NAMES,
    STATE,
    TEXT,
    TIME,
    TIMER,
    timer_name,
)  # fmt: skip
from finwait.tcp.state import TcpState
from finwait.text.timestamp import format_time
from finwait.wire.inet_diag import MAPPED_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from finwait.table.batch import Array, Batch
    from finwait.table.snapshot import Cell

_STATE_TOKENS = {int(state): state.token for state in TcpState}


def cells_of(batch: Batch, name: str) -> list[Cell]:
    """Column `name` of `batch` as a list of JSON values: tokens, texts, numbers, None.

    An address is text, mapped IPv4 as IPv4; an endpoint is ``address:port`` with IPv6 in brackets.
    """
    column = DECLARATION_BY_NAME[name]
    if column.kind == ENDPOINT:
        return endpoint_texts(batch, name)
    data = batch.column(name)
    if column.kind == ADDRESS:
        texts: list[Cell] = list(address_texts(data.values, batch.column("family").values))
    else:
        texts = _SIMPLE.get(column.kind, _numbers)(data.values, data.dictionary or ())
    if data.valid is None:
        return texts
    return [text if valid else None for text, valid in zip(texts, data.valid.tolist(), strict=True)]


def _numbers(values: Array, _: tuple[str, ...]) -> list[Cell]:
    return values.tolist()  # type: ignore[no-any-return]


def _by_number(name_of: Callable[[int], str]) -> Callable[[Array, tuple[str, ...]], list[Cell]]:
    def texts(values: Array, _: tuple[str, ...]) -> list[Cell]:
        name_by_number = {number: name_of(number) for number in np.unique(values).tolist()}
        return [name_by_number[number] for number in values.tolist()]

    return texts


def _dictionary_texts(values: Array, dictionary: tuple[str, ...]) -> list[Cell]:
    return [dictionary[code] if 0 <= code < len(dictionary) else None for code in values.tolist()]


def _timestamps(values: Array, _: tuple[str, ...]) -> list[Cell]:
    return [format_time(value) for value in values.tolist()]


def _state_token(number: int) -> str:
    return _STATE_TOKENS.get(number, str(number))


def _family_name(number: int) -> str:
    return FAMILY_NAMES.get(number, str(number))


# the machine word of a number, by kind; a number that is not known stays a number
NAME_OF: dict[str, Callable[[int], str]] = {STATE: _state_token, FAMILY: _family_name, TIMER: timer_name}

_SIMPLE: dict[str, Callable[[Array, tuple[str, ...]], list[Cell]]] = {
    **{kind: _by_number(name_of) for kind, name_of in NAME_OF.items()},
    TEXT: _dictionary_texts,
    BOOL: _numbers,
    TIME: _timestamps,
}


def address_texts(addresses: Array, family: Array) -> list[str]:
    """(n, 16) `addresses` as text, each distinct one formatted once; `family` is the sockets' (2 or 10)."""
    texts, inverse = distinct_addresses(addresses, family)
    return [texts[index] for index in inverse.tolist()]


def distinct_addresses(addresses: Array, family: Array) -> tuple[list[str], Array]:
    """The text of each distinct one, and for each row which it is."""
    keys = np.concatenate([addresses, family[:, None]], axis=1)
    packed = np.ascontiguousarray(keys).view("V17")[:, 0]
    unique, inverse = np.unique(packed, return_inverse=True)
    return [format_address(key.tobytes()[:16], key.tobytes()[16]) for key in unique], inverse


def format_address(address: bytes, family: int) -> str:
    """Text of one address; ``::ffff:a.b.c.d`` as ``a.b.c.d``. RFC 5952 for IPv6."""
    if family != 10:
        return f"{address[0]}.{address[1]}.{address[2]}.{address[3]}"
    if address.startswith(MAPPED_PREFIX):
        return f"{address[12]}.{address[13]}.{address[14]}.{address[15]}"
    from ipaddress import IPv6Address

    return str(IPv6Address(address))


def endpoint_texts(batch: Batch, name: str) -> list[Cell]:
    """``address:port``, ``[address]:port`` for IPv6, ``%device`` behind a scoped local address, ``*`` for no port."""
    address_name, port_name = ENDPOINT_PARTS[name]
    addresses, ports = cells_of(batch, address_name), cells_of(batch, port_name)
    devices: list[Cell] = cells_of(batch, "interface") if name == "local" else [None] * batch.length
    return [_endpoint(*parts) for parts in zip(addresses, ports, devices, strict=True)]


def _endpoint(address: Cell, port: Cell, device: Cell) -> str | None:
    if address is None and port is None:
        return None
    host = "?" if address is None else str(address)
    if device is not None:
        host = f"{host}%{device}"
    if ":" in host:
        host = f"[{host}]"
    return f"{host}:{'?' if port is None else port or '*'}"
