"""Owners as ss -p writes them: one line a socket, ``users:(("nginx",pid=1,fd=6),("nginx",pid=2,fd=6))`` behind it."""

from __future__ import annotations

import numpy as np

from finwait.table.batch import Batch, ColumnData
from finwait.table.cells import cells_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def fold_owners(batches: Iterable[Batch]) -> Iterator[Batch]:
    """`batches` with one row a socket, whose column ``process`` tells all of its owners; empty text where it has none."""
    for batch in batches:
        texts: list[str] = []
        owners = zip(cells_of(batch, "process"), cells_of(batch, "pid"), cells_of(batch, "fd"), strict=True)
        again = np.zeros(batch.length, np.bool_) if batch.again is None else batch.again
        for (process, pid, fd), more in zip(owners, again.tolist(), strict=True):
            text = "" if pid is None else f'("{process}",pid={pid},fd={fd})'
            if more:
                texts[-1] += f",{text}"
            else:
                texts.append(text)
        dictionary = tuple(dict.fromkeys(f"users:({text})" if text else "" for text in texts))
        code_by_text = {text: code for code, text in enumerate(dictionary)}
        codes = [code_by_text[f"users:({text})" if text else ""] for text in texts]
        folded = batch.one_row_each()
        columns = {name: data for name, data in folded.columns.items() if name != "owner_kind"}
        yield Batch(folded.length, {**columns, "process": ColumnData(np.asarray(codes, dtype="i4"), None, dictionary)})
