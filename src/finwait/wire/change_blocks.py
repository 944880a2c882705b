"""Frames of a recording of changes: a first line, then blocks, each whole in itself, so that a recording that was cut is
readable up to there.

A block is 4 letters, the CRC-32 of its content and its length (little-endian, 4 and 8 bytes), and the content. Blocks of a kind
that is not known are for a reader to pass over.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

from finwait.errors import ParseError, Phrase
from finwait.text.messages import mark

FIRST_LINE = b"finwait-changes/1\n"
HEAD, NAMES, ROWS, LOSS, DONE = b"HEAD", b"NAME", b"ROWS", b"LOSS", b"DONE"
FRAME = Struct("<4sIQ")
MOST_BYTES = 1 << 25  # of a block, twice what a batch of whole lives takes
DAMAGED = mark("the recording {path} is damaged at offset {offset}: {reason}")
NO_BLOCK = mark("there is no block")
MORE = mark("something follows its end")
WRONG_SUM = mark("the block's checksum is wrong")


def build_frame(kind: bytes, *parts: bytes | memoryview) -> bytes:
    """What stands before the content of a block, which `parts` are together."""
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    return FRAME.pack(kind, checksum, sum(len(part) for part in parts))


def build_block(kind: bytes, content: bytes) -> bytes:
    """The block, ready to be written."""
    return build_frame(kind, content) + content


def parse_frame(frame: bytes, path: str, offset: int) -> tuple[bytes, int, int]:
    """(kind, checksum, bytes of content) of the block at `offset`. Raises ParseError for what can be none."""
    kind, checksum, length = FRAME.unpack(frame)
    if not (kind.isascii() and kind.isalnum() and kind.isupper()) or length > MOST_BYTES:
        raise ParseError(DAMAGED, path=path, offset=offset, excerpt=frame.hex(" "), reason=Phrase(NO_BLOCK))
    return kind, checksum, length


def check_content(content: bytes, checksum: int, path: str, offset: int) -> None:
    """Raise ParseError where the content is not what was written."""
    if crc32(content) != checksum:
        raise ParseError(DAMAGED, path=path, offset=offset, excerpt=content[:16].hex(" "), reason=Phrase(WRONG_SUM))
