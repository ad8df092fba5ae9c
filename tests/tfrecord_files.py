"""Records as they are in a TFRecord file, written without TensorFlow."""

import struct
from collections.abc import Iterator


def framed(record: bytes) -> bytes:
    """A record as it is in a TFRecord file: length, checksum, data, checksum."""
    length = struct.pack("<Q", len(record))
    return length + masked_checksum(length) + record + masked_checksum(record)


def masked_checksum(data: bytes) -> bytes:
    """CRC-32C, rotated by 15 bits, plus a constant, as TFRecord files have it."""
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _TABLE[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    checksum ^= 0xFFFFFFFF
    rotated = ((checksum >> 15) | (checksum << 17)) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> Iterator[int]:
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_TABLE = tuple(_table())
