"""Whole connections for people: a path as ``ESTABLISHED 12.3 ms > FIN-WAIT-1 80 us > TIME-WAIT``."""

from __future__ import annotations

from finwait.render.change_lines import path_document
from finwait.render.trace_summary import duration_text
from finwait.table.batch import Batch, ColumnData
from finwait.tcp.state import TcpState

_RFC_BY_TOKEN = {state.token: state.rfc for state in TcpState}


def with_readable_paths(batch: Batch) -> Batch:
    """`batch` with its paths as people read them."""
    path = batch.column("path")
    texts = tuple(readable_path(text) for text in path.dictionary or ())
    return Batch(batch.length, {**batch.columns, "path": ColumnData(path.values, path.valid, texts)}, batch.again)


def readable_path(path: str) -> str:
    """The states by their RFC names, each with the time spent in it, the last one without; ``?`` where the begin was not
    seen.
    """  # fmt: skip
    steps = path_document(path)
    texts = [
        f"{_RFC_BY_TOKEN[str(step['state'])]} {'?' if step['us'] is None else duration_text(int(step['us']))}"
        for step in steps[:-1]
    ]
    return " > ".join([*texts, _RFC_BY_TOKEN[str(steps[-1]["state"])]])
