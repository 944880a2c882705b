"""The Arrow C stream interface in ctypes: arrays of NumPy as ArrowArrayStream, ArrowSchema and ArrowArray.

https://arrow.apache.org/docs/format/CDataInterface.html
https://arrow.apache.org/docs/format/CStreamInterface.html
https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html

Every structure that is handed out has an entry in `_kept`, which holds what its pointers point to and goes away when
its release callback is called. Pointers are integers here: pointers of ctypes make reference cycles.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, PYFUNCTYPE, Structure, addressof, c_char_p, c_int, c_int64, c_void_p, py_object, pythonapi
from errno import EINVAL, ENOMEM

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from finwait.table.batch import Array, Mask

    # a column of a record batch: which rows have a value (None: all), and the buffers behind the validity bitmap
    Part = tuple[Mask | None, tuple[Array, ...]]

ARROW_FLAG_NULLABLE = 2
CAPSULE_NAME = b"arrow_array_stream"


class ArrowSchema(Structure):
    """struct ArrowSchema: a type, or a field with its type."""

    _fields_ = (
        ("format", c_void_p),
        ("name", c_void_p),
        ("metadata", c_void_p),
        ("flags", c_int64),
        ("n_children", c_int64),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class ArrowArray(Structure):
    """struct ArrowArray: the data of a column, or of a record batch with the columns as children."""

    _fields_ = (
        ("length", c_int64),
        ("null_count", c_int64),
        ("offset", c_int64),
        ("n_buffers", c_int64),
        ("n_children", c_int64),
        ("buffers", c_void_p),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class ArrowArrayStream(Structure):
    """struct ArrowArrayStream: record batches of one schema, one after another."""

    _fields_ = (
        ("get_schema", c_void_p),
        ("get_next", c_void_p),
        ("get_last_error", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class Field:
    """A column of the stream. format: its type as ArrowSchema writes it. dictionary: for codes, how many texts they
    stand for, and the buffers of these as a utf8 array.
    """  # fmt: skip

    __slots__ = ("dictionary", "format", "name", "nullable", "unit")

    def __init__(
        self,
        name: str,
        format_: bytes,
        nullable: bool,
        unit: str | None = None,
        dictionary: tuple[int, tuple[Array, ...]] | None = None,
    ) -> None:
        self.name = name
        self.format = format_
        self.nullable = nullable
        self.unit = unit
        self.dictionary = dictionary


class _Kept:
    """What a structure's pointers point to. children: its children or its dictionary, released with it unless moved."""

    __slots__ = ("buffers", "children")

    def __init__(self, children: Sequence[Structure], buffers: Sequence[Array | None]) -> None:
        self.children = children
        self.buffers = buffers


class _Stream:
    """The private data of a stream. record_batches: length and columns of each. error: where get_last_error points."""

    __slots__ = ("children", "error", "fields", "record_batches")

    def __init__(self, fields: Sequence[Field], record_batches: Iterator[tuple[int, Sequence[Part]]]) -> None:
        self.children: Sequence[Structure] = ()
        self.error: Array | None = None
        self.fields = fields
        self.record_batches = record_batches


_kept: dict[int, _Kept | _Stream] = {}  # by private_data of each structure that is not released: the value's id
_offered: dict[int, ArrowArrayStream] = {}  # by address: the structures in living capsules


def build_capsule(fields: Sequence[Field], record_batches: Iterator[tuple[int, Sequence[Part]]]) -> object:
    """A capsule with an ArrowArrayStream of `record_batches`, which are drawn as the consumer asks for them."""
    structure = ArrowArrayStream()
    structure.get_schema, structure.get_next, structure.get_last_error = _GET_SCHEMA, _GET_NEXT, _GET_LAST_ERROR
    structure.private_data = _keep(_Stream(fields, record_batches))
    structure.release = _RELEASE_STREAM
    _offered[addressof(structure)] = structure
    return _new_capsule(addressof(structure), CAPSULE_NAME, _DESTROY)


def _keep(kept: _Kept | _Stream) -> int:
    _kept[id(kept)] = kept
    return id(kept)


def _c_bytes(content: bytes) -> Array:
    """`content` and a NUL at an address that can be handed out."""
    return np.frombuffer(content + b"\0", dtype=np.uint8)


def _address(buffer: Array | None) -> int:
    return 0 if buffer is None else int(buffer.ctypes.data)


def _pointers(addresses: Iterable[int]) -> Array | None:
    """A C array of pointers; None, for NULL, where there are none."""
    pointers = np.asarray(tuple(addresses), dtype=np.uintp)
    return pointers if len(pointers) else None


def _metadata(pairs: dict[str, str]) -> Array | None:
    """`pairs` as ArrowSchema has them: int32 count, then length and bytes of each key and value, native-endian."""
    if not pairs:
        return None
    texts = [text.encode() for pair in pairs.items() for text in pair]
    return _c_bytes(b"".join([_int32(len(pairs)), *(_int32(len(text)) + text for text in texts)]))


def _int32(number: int) -> bytes:
    return np.int32(number).tobytes()


def _fill_schema(
    schema: ArrowSchema, field: Field, children: Sequence[ArrowSchema] = (), dictionary: ArrowSchema | None = None
) -> None:
    metadata = _metadata({"unit": field.unit} if field.unit else {})
    pointers = _pointers(addressof(child) for child in children)
    buffers = (_c_bytes(field.format), _c_bytes(field.name.encode()), metadata, pointers)
    schema.format, schema.name, schema.metadata, schema.children = map(_address, buffers)
    schema.flags = ARROW_FLAG_NULLABLE if field.nullable else 0
    schema.n_children = len(children)
    schema.dictionary = None if dictionary is None else addressof(dictionary)
    schema.private_data = _keep(_Kept(children if dictionary is None else (dictionary,), buffers))
    schema.release = _RELEASE_SCHEMA


def _field_schema(field: Field) -> ArrowSchema:
    dictionary = None
    if field.dictionary is not None:
        dictionary = ArrowSchema()
        _fill_schema(dictionary, Field("", b"u", nullable=False))
    schema = ArrowSchema()
    _fill_schema(schema, field, (), dictionary)
    return schema


def _fill_array(
    array: ArrowArray,
    length: int,
    part: Part,
    children: Sequence[ArrowArray] = (),
    dictionary: ArrowArray | None = None,
) -> None:
    valid, buffers = part
    array.null_count = 0 if valid is None else length - int(np.count_nonzero(valid))
    bitmap = np.packbits(valid, bitorder="little") if valid is not None and array.null_count else None
    buffer_pointers = _pointers(map(_address, (bitmap, *buffers)))
    child_pointers = _pointers(addressof(child) for child in children)
    array.length, array.offset = length, 0
    array.n_buffers, array.buffers = 1 + len(buffers), _address(buffer_pointers)
    array.n_children, array.children = len(children), _address(child_pointers)
    array.dictionary = None if dictionary is None else addressof(dictionary)
    inner = children if dictionary is None else (dictionary,)
    array.private_data = _keep(_Kept(inner, (bitmap, *buffers, buffer_pointers, child_pointers)))
    array.release = _RELEASE_ARRAY


def _field_array(field: Field, length: int, part: Part) -> ArrowArray:
    dictionary = None
    if field.dictionary is not None:
        dictionary = ArrowArray()
        _fill_array(dictionary, field.dictionary[0], (None, field.dictionary[1]))
    array = ArrowArray()
    _fill_array(array, length, part, (), dictionary)
    return array


# Callbacks.
#
# They may be called from any thread (ctypes takes the GIL) and while the interpreter shuts down, when the names of this
# module are gone already: those that run late, release and destroy, are closures and name no globals.

# functions of our own: the argument types of `pythonapi.PyCapsule_New` would be everybody's
_new_capsule = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", pythonapi))
_increase_reference_count = PYFUNCTYPE(None, py_object)(("Py_IncRef", pythonapi))


def _write_schema(stream: _Stream, address: int) -> None:
    children = [_field_schema(field) for field in stream.fields]
    _fill_schema(ArrowSchema.from_address(address), Field("", b"+s", nullable=False), children)


def _write_next(stream: _Stream, address: int) -> None:
    array = ArrowArray.from_address(address)
    record_batch = next(stream.record_batches, None)
    if record_batch is None:
        array.release = None  # the end of the stream
        return
    length, parts = record_batch
    children = [_field_array(field, length, part) for field, part in zip(stream.fields, parts, strict=True)]
    _fill_array(array, length, (None, ()), children)


def _stream_callback(write: Callable[[_Stream, int], None]) -> Callable[[int, int], int]:
    """`write` as a callback that returns 0 or an errno; an exception cannot cross C."""

    def callback(address: int, out: int) -> int:
        stream = _kept[ArrowArrayStream.from_address(address).private_data]
        assert isinstance(stream, _Stream)
        try:
            stream.error = None
            write(stream, out)
        except BaseException as error:  # noqa: BLE001  get_last_error tells it
            stream.error = _c_bytes(f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace"))
            return ENOMEM if isinstance(error, MemoryError) else EINVAL
        return 0

    return callback


def _last_error(address: int) -> int:
    stream = _kept[ArrowArrayStream.from_address(address).private_data]
    return _address(stream.error) if isinstance(stream, _Stream) else 0


class _Interrupted:
    """Has the interpreter report, as an unraisable one, an exception that a callback of C would swallow."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


def _error_safe(body: Callable[[int], None]) -> Callable[[int], object]:
    """`body` as a callback that may run while an exception is on its way, as in ``f(polars.DataFrame(table), 1 / 0)``.

    Python code cannot run with the exception set, and ctypes has no way to set it again behind a callback; without one
    the interpreter, told of an exception and finding none, crashes. So the exception is reported as unraisable, and a
    capsule is returned whose destruction, in C and after ctypes has checked the result, sets a SystemError instead.
    """
    # ctypes raises what a function of the C API left set: here, what was set before
    raise_pending = PYFUNCTYPE(None)(("PyErr_Occurred", pythonapi))
    set_system_error = ctypes.cast(pythonapi.PyErr_BadInternalCall, c_void_p).value
    new_capsule, name, interrupted_type = _new_capsule, CAPSULE_NAME, _Interrupted

    def callback(address: int) -> object:
        interrupted = None
        try:
            raise_pending()
        except BaseException as error:  # noqa: BLE001  reported below
            interrupted = interrupted_type(error)
        body(address)
        if interrupted is None:
            return None
        del interrupted
        return new_capsule(1, name, set_system_error)

    return callback


def _release_of(structure_type: type[Structure]) -> Callable[[Structure], None]:
    kept = _kept

    def release(structure: Structure) -> None:
        """Release `structure`, wherever it was moved to, and what was not moved out of it; not twice."""
        if structure.release:
            structure.release = None
            for child in kept.pop(structure.private_data).children:
                release(child)

    return release


def _address_of_callback(signature: Callable[..., object], function: Callable[..., object]) -> int:
    """The C function that calls `function`; never freed, because arrays may outlive this module."""
    callback = signature(function)
    _increase_reference_count(callback)
    return int(ctypes.cast(callback, c_void_p).value or 0)  # type: ignore[arg-type]


def _address_of_release(structure_type: type[Structure]) -> int:
    release = _release_of(structure_type)
    from_address = structure_type.from_address
    return _address_of_callback(_VOID, _error_safe(lambda address: release(from_address(address))))


def _capsule_destructor() -> Callable[[int], object]:
    # by address: a reference to a capsule that is being destroyed would destroy it again
    pointer_of = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", pythonapi))
    offered, name, release = _offered, CAPSULE_NAME, _release_of(ArrowArrayStream)
    return _error_safe(lambda capsule: release(offered.pop(pointer_of(capsule, name))))


_VOID = CFUNCTYPE(None, c_void_p)
_STATUS = CFUNCTYPE(c_int, c_void_p, c_void_p)
_RELEASE_SCHEMA = _address_of_release(ArrowSchema)
_RELEASE_ARRAY = _address_of_release(ArrowArray)
_RELEASE_STREAM = _address_of_release(ArrowArrayStream)
_GET_SCHEMA = _address_of_callback(_STATUS, _stream_callback(_write_schema))
_GET_NEXT = _address_of_callback(_STATUS, _stream_callback(_write_next))
_GET_LAST_ERROR = _address_of_callback(CFUNCTYPE(c_void_p, c_void_p), _last_error)
_DESTROY = _address_of_callback(_VOID, _capsule_destructor())
