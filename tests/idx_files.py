"""Helpers that write data sets in MNIST's format."""

import gzip

import numpy as np


def idx(array, kind=8):
    """The bytes of an IDX file."""
    header = bytes([0, 0, kind, array.ndim])
    lengths = np.array(array.shape, ">u4").tobytes()
    return header + lengths + array.astype(np.uint8).tobytes()


def write(folder, counts, size=28, *, prefix="", test="t10k", first=0, packed=True):
    """Writes ``counts[c]`` training images and five test images of each class c."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, of_class in (("train", counts), (test, [5] * len(counts))):
        labels = rng.permutation(np.repeat(np.arange(len(counts)), of_class))
        # Class c is bright in row c.
        images = rng.integers(0, 60, (len(labels), size, size))
        images[np.arange(len(labels)), labels % size] += 180
        parts = {"images-idx3-ubyte": images, "labels-idx1-ubyte": labels + first}
        for name, array in parts.items():
            content = idx(array)
            path = folder / f"{prefix}{split}-{name}"
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)
    return folder
