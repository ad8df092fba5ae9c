"""Records of TFRecord files at any index, without TensorFlow."""

import os
import struct
from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np

from experiments.errors import UserError

# Length of the data and its checksum; after the data comes a checksum of them.
_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_FOOTER = struct.Struct("<I")


class TFRecordFiles:
    """The records of some files, one file after another.

    A file is opened for every record that is read: that costs a hundredth of decoding
    an image, and leaves nothing that threads or processes would have to share.
    """

    def __init__(self, paths: Sequence[str], positions: np.ndarray):
        """
        Args:
          paths: of the files.
          positions: number of the file, first byte and length of every record's data,
            int64, shape ``(size, 3)``, as :func:`find_records` gives them.
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
    """Where the records are, found by walking over their lengths.

    Args:
      paths: of the files.
      counts: records that each file should hold.

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
                f"{path} holds {len(found)} records where its data set counts {count}: "
                "it is damaged or of another version; prepare the data set anew."
            )
        positions += [(file, start, length) for start, length in found]
    return np.array(positions, np.int64).reshape(-1, 3)


def _walk(path: str) -> Iterator[tuple[int, int]]:
    """First byte and length of every record's data."""
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
    """CRC-32C, rotated by 15 bits, plus a constant."""
    checksum = google_crc32c.value(data)
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, start: int) -> UserError:
    return UserError(
        f"{path} is damaged at byte {start}: what is there does not have the checksum "
        "that was written with it. Copy or prepare it anew."
    )


def _cut_off(path: str) -> UserError:
    return UserError(
        f"{path} ends in the middle of a record: it is not a TFRecord file, or was cut "
        "off while it was written or copied; copy or prepare it anew."
    )
