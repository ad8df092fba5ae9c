"""Random access to the records of TFRecord files, without TensorFlow."""

import os
import struct
from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np

from experiments.errors import UserError

# Length of the data and checksum of the length; the footer is a checksum of the data.
_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_FOOTER = struct.Struct("<I")


class TFRecordFiles:
    """The records of some files, one file after another.

    Every read opens the file anew. This costs a hundredth of decoding an image, and
    threads and processes share no open file.
    """

    def __init__(self, paths: Sequence[str], positions: np.ndarray):
        """
        Args:
          paths: paths of the files.
          positions: number of the file, first byte and length of every record's data,
            int64, shape ``(size, 3)``, as :func:`find_records` returns them.
        """
        self.paths = tuple(paths)
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> bytes:
        file, start, length = self.positions[index].tolist()
        path = self.paths[file]
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None
        try:
            data = os.pread(descriptor, length + _FOOTER.size, start)
        finally:
            os.close(descriptor)
        if len(data) != length + _FOOTER.size:
            raise _cut_off(path)
        data, footer = data[:length], data[length:]
        if _checksum(data) != _FOOTER.unpack(footer)[0]:
            raise _damaged(path, start)
        return data


def find_records(paths: Sequence[str], counts: Sequence[int]) -> np.ndarray:
    """Finds the positions of all records from their lengths.

    Args:
      paths: paths of the files.
      counts: expected number of records of each file.

    Returns:
      Number of the file, first byte and length of every record's data, int64, shape
      ``(sum(counts), 3)``.

    Raises:
      UserError: if a file ends early, is damaged or holds another number of records.
    """
    positions = []
    for file, (path, count) in enumerate(zip(paths, counts, strict=True)):
        found = list(_walk(path))
        if len(found) != count:
            raise UserError(
                f"{path} contains {len(found)} records, but its data set lists "
                f"{count}: it is damaged or of another version; prepare the data set "
                "again."
            )
        positions += [(file, start, length) for start, length in found]
    return np.array(positions, np.int64).reshape(-1, 3)


def _walk(path: str) -> Iterator[tuple[int, int]]:
    """Yields first byte and length of every record's data."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        end = 0
        while end < size:
            file.seek(end)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise _cut_off(path)
            length, checksum = _HEADER.unpack(header)
            start = end + _HEADER.size
            end = start + length + _FOOTER.size
            if end > size:
                raise _cut_off(path)
            if _checksum(_LENGTH.pack(length)) != checksum:
                raise _damaged(path, start - _HEADER.size)
            yield start, length


def _checksum(data: bytes) -> int:
    """Computes the CRC-32C, rotated right by 15 bits, plus a constant."""
    checksum = google_crc32c.value(data)
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, start: int) -> UserError:
    return UserError(
        f"{path} is damaged at byte {start}: its checksum is wrong there; copy or "
        "prepare it again."
    )


def _cut_off(path: str) -> UserError:
    return UserError(
        f"{path} ends in the middle of a record: it is not a TFRecord file, or was cut "
        "off while it was written or copied; copy or prepare it again."
    )
