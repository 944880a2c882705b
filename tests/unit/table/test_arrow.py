"""__arrow_c_stream__: read by pyarrow and polars, and by hand as the specification of the C interface has it."""

import ctypes
import gc
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import polars
import pyarrow
import pytest

from finwait.table import arrow_c
from finwait.table.arrow import export_stream
from finwait.table.arrow_c import ArrowArray, ArrowArrayStream, ArrowSchema
from finwait.table.batch import Batch, ColumnData
from finwait.table.cells import cells_of
from finwait.table.columns import COLUMN_BY_NAME, COLUMNS, ENDPOINT, STATE
from finwait.table.snapshot import Provenance
from finwait.table.table import ConnectionTable

STORED = tuple(column.name for column in COLUMNS if column.kind != ENDPOINT)
BIG = 2**64 - 1
MAPPED = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])
INET6 = bytes.fromhex("20010db8000000000000000000000001")


class Stream:
    """What a consumer is given: anything with __arrow_c_stream__."""

    def __init__(self, batches, names):
        self.batches = batches
        self.names = names

    def __arrow_c_stream__(self, requested_schema=None):
        return export_stream(self.batches, self.names)


def mask(*values):
    return np.array(values, dtype=np.bool_)


def mixed_batch(processes=("nginx", "sshd"), cookie=BIG):
    """Four rows: a null in most columns, a number that nobody knows in each kind of word."""
    addresses = np.frombuffer(bytes([10, 0, 0, 1]) + bytes(12) + MAPPED + INET6 + bytes(16), dtype=np.uint8)
    return Batch(
        4,
        {
            "state": ColumnData(np.array([1, 10, 77, 6], dtype="u1")),
            "family": ColumnData(np.array([2, 10, 10, 7], dtype="u1")),
            "local_address": ColumnData(addresses.reshape(4, 16), mask(True, True, True, False)),
            "local_port": ColumnData(np.array([22, 0, 65535, 1], dtype="u2")),
            "timer": ColumnData(np.array([2, 0, 5, 200], dtype="u1"), mask(True, False, True, True)),
            "retransmits": ColumnData(np.array([0, 255, 3, 4], dtype="u1")),
            "v6only": ColumnData(mask(True, False, True, True), mask(True, True, False, True)),
            "process": ColumnData(np.array([1, 0, 0, 1], dtype="i4"), mask(True, True, False, True), processes),
            "cookie": ColumnData(np.array([cookie, 2**63, 2**53 + 1, 0], dtype="u8")),
            "rtt_us": ColumnData(np.array([0, 1, 2**32 - 1, 5], dtype="u4"), mask(False, True, True, True)),
        },
    )


def cells(batches, name):
    return [cell for batch in batches for cell in cells_of(batch, name)]


def by_pyarrow(batches, names):
    table = pyarrow.table(Stream(batches, names))
    table.validate(full=True)
    return {name: table[name].to_pylist() for name in names}


def by_polars(batches, names):
    return polars.DataFrame(Stream(batches, names)).to_dict(as_series=False)


@pytest.fixture(params=[by_pyarrow, by_polars], ids=["pyarrow", "polars"])
def read(request):
    """Reads a stream as lists by column name."""
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_kept():
    """After every test all structures are released and all capsules gone."""
    yield
    gc.collect()
    assert not arrow_c._kept
    assert not arrow_c._offered


# --- what the libraries read ---


def test_every_cell_of_every_stored_column_arrives(read):
    batches = [mixed_batch(), mixed_batch(cookie=3), mixed_batch(("bash", "nginx"))]
    assert read(batches, STORED) == {name: cells(batches, name) for name in STORED}


def test_endpoints_arrive_as_text(read):
    batches = [mixed_batch()]
    assert read(batches, ["local", "peer"]) == {name: cells(batches, name) for name in ("local", "peer")}


def test_the_types_are_the_declared_ones():
    schema = pyarrow.schema(pyarrow.table(Stream([mixed_batch()], STORED)).schema)
    for name, type_ in {
        "retransmits": pyarrow.uint8(),
        "local_port": pyarrow.uint16(),
        "rtt_us": pyarrow.uint32(),
        "cookie": pyarrow.uint64(),
        "v6only": pyarrow.bool_(),
        "local_address": pyarrow.utf8(),
        "state": pyarrow.dictionary(pyarrow.int8(), pyarrow.utf8()),
        "family": pyarrow.dictionary(pyarrow.int8(), pyarrow.utf8()),
        "timer": pyarrow.dictionary(pyarrow.int8(), pyarrow.utf8()),
        "process": pyarrow.dictionary(pyarrow.int32(), pyarrow.utf8()),
    }.items():
        assert schema.field(name).type == type_, name
    assert schema.names == list(STORED)


def test_a_field_tells_its_unit_and_whether_it_may_be_null():
    schema = pyarrow.table(Stream([mixed_batch()], STORED)).schema
    for name in STORED:
        column = COLUMN_BY_NAME[name]
        assert schema.field(name).metadata == ({b"unit": column.unit.encode()} if column.unit else None)
        assert schema.field(name).nullable == column.nullable


def test_a_state_that_the_source_did_not_tell_makes_its_field_nullable():
    table = pyarrow.table(Stream([Batch(2, {})], ["state"]))
    assert table.schema.field("state").nullable
    assert table["state"].to_pylist() == [None, None]


def test_null_counts_are_right():
    table = pyarrow.table(Stream([mixed_batch(), mixed_batch()], STORED))
    for name in STORED:
        assert table[name].null_count == cells([mixed_batch()], name).count(None) * 2, name


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 23, 64, 65])
def test_bitmaps_of_any_length_are_least_significant_bit_first(read, rows):
    pattern = np.arange(rows) % 3 == 0
    batch = Batch(rows, {"v6only": ColumnData(pattern, np.arange(rows) % 5 != 1)})
    assert read([batch], ["v6only"]) == {"v6only": cells_of(batch, "v6only")}


def test_cookies_of_64_bits_are_exact(read):
    assert read([mixed_batch()], ["cookie"])["cookie"] == [BIG, 2**63, 2**53 + 1, 0]


def test_a_number_that_nobody_knows_is_its_decimal_text(read):
    row = read([mixed_batch()], ["state", "family", "timer"])
    assert (row["state"][2], row["family"][3], row["timer"][3]) == ("77", "7", "200")


def test_words_keep_their_codes_from_table_to_table():
    chunk = pyarrow.table(Stream([mixed_batch()], ["state"]))["state"].chunk(0)
    assert chunk.dictionary.to_pylist()[:3] == ["established", "syn_sent", "syn_received"]
    assert chunk.dictionary.to_pylist()[11:] == ["77"]


def test_256_different_states_fit(read):
    batch = Batch(256, {"state": ColumnData(np.arange(256, dtype="u1"))})
    assert COLUMN_BY_NAME["state"].kind == STATE
    assert read([batch], ["state"]) == {"state": cells_of(batch, "state")}


def test_all_batches_share_one_dictionary(tmp_path):
    batches = [mixed_batch(("nginx", "sshd")), mixed_batch(("bash", "nginx")), Batch(2, {}), mixed_batch(("x", "y"))]
    table = pyarrow.table(Stream(batches, ["process"]))
    dictionaries = {tuple(chunk.dictionary.to_pylist()) for chunk in table["process"].chunks}
    assert dictionaries == {("nginx", "sshd", "bash", "x", "y")}
    with pyarrow.ipc.new_file(tmp_path / "t.arrow", table.schema) as writer:  # the format that refuses to replace one
        writer.write_table(table)


def test_text_outside_ascii_arrives(read):
    batch = mixed_batch(("größe", "进程\U0001f600"))
    assert read([batch], ["process"])["process"] == ["进程\U0001f600", "größe", None, "进程\U0001f600"]


def test_undecodable_bytes_arrive_as_escapes(read):
    batch = mixed_batch((b"a\xff".decode("utf-8", "surrogateescape"), "nul\0"))
    assert read([batch], ["process"])["process"] == ["nul\0", "a\\udcff", None, "nul\0"]


def test_a_code_outside_the_dictionary_is_null(read):
    batch = Batch(3, {"process": ColumnData(np.array([-1, 0, 9], dtype="i4"), None, ("one",))})
    assert read([batch], ["process"]) == {"process": [None, "one", None]}
    assert cells_of(batch, "process") == [None, "one", None]


def test_an_empty_table_has_its_schema(read):
    assert read([], STORED) == {name: [] for name in STORED}
    assert pyarrow.RecordBatchReader.from_stream(Stream([], STORED)).schema.names == list(STORED)


def test_a_batch_without_rows_is_read(read):
    assert read([Batch(0, {}), mixed_batch().head(0)], STORED) == {name: [] for name in STORED}


def test_a_table_without_columns_keeps_its_rows():
    assert pyarrow.table(Stream([mixed_batch()], [])).num_rows == 4


def test_big_endian_and_strided_values_are_made_native(read):
    strided = np.arange(8, dtype="u4")[::2]
    batch = Batch(4, {"uid": ColumnData(strided), "local_port": ColumnData(np.array([1, 2, 256, 512], dtype=">u2"))})
    assert read([batch], ["uid", "local_port"]) == {"uid": [0, 2, 4, 6], "local_port": [1, 2, 256, 512]}


def test_numbers_are_not_copied():
    batch = mixed_batch()
    for name in ("cookie", "local_port", "rtt_us"):
        array = pyarrow.table(Stream([batch], [name]))[name].chunk(0)
        assert array.buffers()[1].address == batch.columns[name].values.ctypes.data


def test_a_connection_table_leaves_endpoints_to_their_parts():
    table = ConnectionTable([mixed_batch()], ["state", "local", "local_port"], Provenance("test"))
    assert pyarrow.table(table).schema.names == ["state", "local_port"]


# --- who owns what ---


def test_the_table_may_go_before_the_consumer_reads():
    stream = Stream([mixed_batch(), mixed_batch()], STORED)
    expected = {name: cells(stream.batches, name) for name in STORED}
    reader = pyarrow.RecordBatchReader.from_stream(stream)
    del stream
    gc.collect()
    table = reader.read_all()
    assert {name: table[name].to_pylist() for name in STORED} == expected


def test_arrays_outlive_the_stream():
    reader = pyarrow.RecordBatchReader.from_stream(Stream([mixed_batch(), mixed_batch()], ["process", "cookie"]))
    first = reader.read_next_batch()
    del reader
    gc.collect()
    assert not any(isinstance(kept, arrow_c._Stream) for kept in arrow_c._kept.values())
    column = first["process"]
    del first
    gc.collect()
    assert column.to_pylist() == ["sshd", "nginx", None, "sshd"]


def test_a_capsule_that_nobody_consumes_is_freed():
    capsule = export_stream([mixed_batch()], STORED)
    assert len(arrow_c._kept) == len(arrow_c._offered) == 1
    del capsule
    assert not arrow_c._kept
    assert not arrow_c._offered


def test_a_capsule_can_be_consumed_once():
    capsule = export_stream([mixed_batch()], STORED)
    assert pyarrow.RecordBatchReader._import_from_c_capsule(capsule).read_all().num_rows == 4
    with pytest.raises(pyarrow.ArrowInvalid, match="released"):
        pyarrow.RecordBatchReader._import_from_c_capsule(capsule)


def test_two_thousand_exports_do_not_grow_memory():
    batches, names = [mixed_batch()], ("state", "process", "cookie")

    def export(times):
        for _ in range(times):
            pyarrow.table(Stream(batches, names))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = export(500)  # fills the free lists of the interpreter
        assert export(2_000) - before < 2_000 * 16  # no object of Python has less than 16 bytes
    finally:
        tracemalloc.stop()
    assert not arrow_c._kept


def test_arrays_are_released_by_other_threads():
    tables = [pyarrow.table(Stream([mixed_batch()] * 5, STORED)) for _ in range(23)]
    threads = [threading.Thread(target=lambda: tables.pop().validate(full=True)) for _ in range(23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not tables
    assert not arrow_c._kept


def test_an_exception_on_its_way_does_not_crash_the_interpreter_when_arrays_are_freed():
    assert run_python("""
for consume in (pyarrow.table, polars.DataFrame, export):
    try:
        print(consume(table), 1 / 0)
    except SystemError:
        print("alive")
try:
    pyarrow.table(table).column("none of these")
except SystemError:
    print("alive", len(arrow_c._kept), len(arrow_c._offered))
""") == ("alive\n" * 3 + "alive 0 0\n", ["ZeroDivisionError: division by zero"] * 3 + [
        "KeyError: 'Field \"none of these\" does not exist in schema'"
    ])  # fmt: skip


def test_what_lives_at_exit_is_freed_without_a_word():
    assert run_python("a, b, c = pyarrow.table(table), polars.DataFrame(table), export(table)") == ("", [])


def run_python(code):
    """(stdout, the last lines of what stderr reports) of `code` in a process that may crash."""
    setup = """
import numpy, polars, pyarrow
from finwait.table import arrow_c
from finwait.table.batch import Batch, ColumnData
from finwait.table.snapshot import Provenance
from finwait.table.table import ConnectionTable
batch = Batch(3, {"state": ColumnData(numpy.array([1, 2, 3], "u1"))})
table = ConnectionTable([batch], ["state", "cookie", "process"], Provenance("test"))
export = ConnectionTable.__arrow_c_stream__
"""
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "Error: " in line]


# --- the C interface by hand ---

POINTER_OF = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
FILL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
TELL = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)


def stream_in(capsule):
    return ArrowArrayStream.from_address(POINTER_OF(capsule, b"arrow_array_stream"))


def moved(structure):
    """A bitwise copy, after which the original counts as released."""
    copy = type(structure).from_buffer_copy(structure)
    structure.release = None
    return copy


def released(structure):
    RELEASE(structure.release)(ctypes.addressof(structure))
    return structure.release is None


def schema_of(stream):
    schema = ArrowSchema()
    assert FILL(stream.get_schema)(ctypes.addressof(stream), ctypes.addressof(schema)) == 0
    return schema


def next_of(stream):
    array = ArrowArray()
    assert FILL(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(array)) == 0
    return array


def child_of(structure, index):
    addresses = (ctypes.c_void_p * structure.n_children).from_address(structure.children)
    return type(structure).from_address(addresses[index])


def test_the_end_of_the_stream_is_a_released_array_again_and_again():
    capsule = export_stream([mixed_batch()], ["state"])
    stream = stream_in(capsule)
    assert released(next_of(stream))
    for _ in range(3):
        assert next_of(stream).release is None
    assert released(stream)


def test_the_stream_may_be_released_before_what_came_from_it():
    capsule = export_stream([mixed_batch()], ["cookie"])
    stream = moved(stream_in(capsule))
    schema, array = schema_of(stream), next_of(stream)
    assert released(stream)
    del capsule
    column = child_of(array, 0)
    buffers = (ctypes.c_void_p * column.n_buffers).from_address(column.buffers)
    assert buffers[0] is None
    assert ctypes.c_uint64.from_address(buffers[1]).value == BIG
    assert ctypes.string_at(child_of(schema, 0).format) == b"L"
    assert released(array)
    assert released(schema)


def test_the_schema_may_be_asked_for_more_than_once():
    capsule = export_stream([], ["expires_ms"])
    schemas = [schema_of(stream_in(capsule)) for _ in range(3)]
    for schema in schemas:
        assert (ctypes.string_at(schema.format), schema.flags, schema.n_children) == (b"+s", 0, 1)
        assert ctypes.string_at(child_of(schema, 0).name) == b"expires_ms"
        assert released(schema)


def test_a_moved_child_outlives_its_parent():
    capsule = export_stream([mixed_batch()], ["cookie", "process"])
    array, schema = next_of(stream_in(capsule)), schema_of(stream_in(capsule))
    column, field = moved(child_of(array, 1)), moved(child_of(schema, 1))
    assert released(array)
    assert released(schema)
    read = pyarrow.Array._import_from_c(ctypes.addressof(column), ctypes.addressof(field))
    assert read.to_pylist() == ["sshd", "nginx", None, "sshd"]


def test_a_released_parent_has_released_children():
    capsule = export_stream([mixed_batch()], ["cookie", "process"])
    array = next_of(stream_in(capsule))
    keep = arrow_c._kept[array.private_data]  # children are memory of the producer's
    children = [child_of(array, 0), child_of(array, 1)]
    dictionary = ArrowArray.from_address(children[1].dictionary)
    dictionary_keep = keep.children[1], arrow_c._kept[children[1].private_data]
    assert released(array)
    assert [child.release for child in (*children, dictionary)] == [None, None, None]
    assert dictionary_keep


def test_an_error_is_told_and_nothing_is_filled():
    batch = mixed_batch()
    capsule = export_stream([batch], ["cookie", "process"])
    stream, array = stream_in(capsule), ArrowArray()
    batch.columns["process"] = ColumnData(np.zeros(4, dtype="i4"), None, ("another", "dictionary\0"))
    assert TELL(stream.get_last_error)(ctypes.addressof(stream)) is None
    assert FILL(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(array)) != 0
    assert array.release is None
    assert TELL(stream.get_last_error)(ctypes.addressof(stream)) == b"KeyError: ('another', 'dictionary\\x00')"
    assert released(schema_of(stream))
    assert TELL(stream.get_last_error)(ctypes.addressof(stream)) is None


def test_an_error_reaches_the_caller_of_the_library():
    batch = mixed_batch()
    stream = Stream([batch], ["process"])
    reader = pyarrow.RecordBatchReader.from_stream(stream)
    batch.columns["process"] = ColumnData(np.zeros(4, dtype="i4"), None, ("another",))
    with pytest.raises(pyarrow.ArrowInvalid, match="another"):
        reader.read_all()
