"""Batches: selection of rows, columns that are not there, concatenation."""

import numpy as np
import pytest

from finwait.table.batch import (
    ADDRESS_BYTES,
    Batch,
    ColumnData,
    absent_column,
    concatenate,
    needed_columns,
    storage_dtype,
)
from finwait.table.cells import cells_of
from finwait.table.columns import COLUMN_BY_NAME, COLUMNS, ENDPOINT, TEXT

STORED = tuple(column for column in COLUMNS if column.kind != ENDPOINT)


def mask(*values):
    return np.array(values, dtype=np.bool_)


def processes(codes, dictionary, valid=None):
    return Batch(len(codes), {"process": ColumnData(np.array(codes, dtype="i4"), valid, dictionary)})


def ports(*numbers):
    return Batch(len(numbers), {"local_port": ColumnData(np.array(numbers, dtype="u2"))})


def test_a_mask_without_nulls_is_no_mask():
    values = np.arange(3)
    assert ColumnData(values, mask(True, True, True)).valid is None
    assert ColumnData(values, mask(True, False, True)).valid.tolist() == [True, False, True]
    assert ColumnData(values[:0], mask()).valid is None


def test_the_mask_of_values_is_as_long_as_the_column():
    assert ColumnData(np.arange(2)).valid_mask().tolist() == [True, True]
    assert ColumnData(np.arange(2), mask(False, True)).valid_mask().tolist() == [False, True]


def test_nulls_that_are_not_selected_leave_no_mask():
    data = ColumnData(np.arange(3), mask(True, False, True))
    assert data.take(mask(True, False, True)).valid is None
    assert data.take(np.array([1, 0])).valid.tolist() == [False, True]


def test_selected_codes_keep_their_dictionary():
    selected = processes([0, 1, 0], ("nginx", "sshd")).take(mask(False, True, True))
    assert selected.column("process").dictionary == ("nginx", "sshd")
    assert cells_of(selected, "process") == ["sshd", "nginx"]


def test_a_mask_selects_rows_in_their_order():
    assert cells_of(ports(1, 2, 3).take(mask(True, False, True)), "local_port") == [1, 3]
    assert len(ports(1, 2, 3).take(mask(False, False, False))) == 0


def test_positions_select_rows_in_the_order_of_the_positions():
    assert cells_of(ports(1, 2, 3).take(np.array([2, 0])), "local_port") == [3, 1]
    assert cells_of(ports(1, 2, 3).take(np.array([2, 1, 0])), "local_port") == [3, 2, 1]
    assert cells_of(ports(1, 2, 3).take(np.array([1, 1, 1, 1])), "local_port") == [2, 2, 2, 2]


def test_a_mask_of_all_rows_selects_the_batch_itself():
    batch = ports(1, 2, 3)
    assert batch.take(mask(True, True, True)) is batch


def test_addresses_are_selected_as_rows():
    addresses = np.arange(48, dtype="u1").reshape(3, ADDRESS_BYTES)
    batch = Batch(3, {"peer_address": ColumnData(addresses)}).take(mask(False, True, True))
    assert batch.column("peer_address").values.tolist() == addresses[1:].tolist()


@pytest.mark.parametrize(("length", "expected"), [(0, []), (1, [1]), (3, [1, 2, 3]), (4, [1, 2, 3])])
def test_the_head_has_at_most_all_rows(length, expected):
    batch = ports(1, 2, 3).head(length)
    assert (len(batch), cells_of(batch, "local_port")) == (len(expected), expected)


@pytest.mark.parametrize("column", STORED, ids=lambda column: column.name)
def test_a_column_that_is_not_there_is_all_null(column):
    batch = Batch(3, {})
    assert cells_of(batch, column.name) == [None] * 3
    assert batch.column(column.name).values.dtype == np.dtype(storage_dtype(column))
    assert (batch.column(column.name).dictionary is not None) == (column.kind == TEXT)


def test_no_rows_of_a_column_that_is_not_there_are_no_nulls():
    assert absent_column(COLUMN_BY_NAME["uid"], 0).valid is None


def test_batches_are_concatenated_in_their_order():
    whole = concatenate([ports(1, 2), ports(), ports(3)])
    assert (len(whole), cells_of(whole, "local_port")) == (3, [1, 2, 3])
    assert whole.column("local_port").values.dtype == np.dtype("u2")


def test_no_batches_are_an_empty_batch():
    assert len(concatenate([])) == 0
    assert concatenate([]).columns == {}


def test_a_concatenation_has_one_dictionary_with_every_text_once():
    whole = concatenate(
        [
            processes([1, 0], ("nginx", "sshd")),
            processes([0, 1, 2], ("bash", "nginx", "sshd"), mask(True, True, False)),
            processes([], ()),
            processes([0], ("bash",)),
        ]
    )
    assert whole.column("process").dictionary == ("nginx", "sshd", "bash")
    assert cells_of(whole, "process") == ["sshd", "nginx", "bash", "nginx", None, "bash"]


def test_where_one_batch_lacks_a_column_the_concatenation_has_nulls():
    whole = concatenate([ports(1), processes([0], ("nginx",)), Batch(1, {})])
    assert cells_of(whole, "local_port") == [1, None, None]
    assert cells_of(whole, "process") == [None, "nginx", None]


def test_a_concatenation_without_nulls_has_no_mask():
    assert concatenate([ports(1), ports(2)]).column("local_port").valid is None


def test_concatenation_leaves_its_batches_as_they_are():
    first, second = processes([0], ("nginx",)), processes([0], ("bash",))
    concatenate([first, second])
    assert (cells_of(first, "process"), cells_of(second, "process")) == (["nginx"], ["bash"])


def test_an_endpoint_needs_its_address_port_family_interface_and_state():
    assert set(needed_columns(["local"])) == {"local_address", "local_port", "family", "interface", "state"}


def test_an_address_needs_the_family_that_tells_how_to_read_it():
    assert needed_columns(["peer_address"]) == ("peer_address", "family")


def test_other_columns_need_themselves_once():
    assert needed_columns(["uid", "state", "uid"]) == ("uid", "state")
    assert needed_columns([]) == ()
