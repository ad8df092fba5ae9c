"""Making batches ahead of their use, in threads or in processes.

grain, which decides what is in a batch, has processes of its own, ``mp_prefetch``; but
in its versions 0.2.17 and 0.2.18 that fails in programs which do not parse absl's
flags, and in others it complains at exit. Hence the executors of the standard library.
"""

import multiprocessing
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

_THREADS = 8
_BATCHES_AHEAD = 2

Chunk = tuple[np.ndarray, ...]


class Batches(Iterator[Chunk]):
    """Batches one after the other, and those who work in the background to make them.

    They go home after the last batch, after an error, with ``close``, or at the end of
    a ``with`` block. Until then they are at most two batches ahead.

    Processes are spawned, not forked, which JAX's threads would not survive, and each
    imports the main module anew.
    """

    def __init__(
        self,
        make_chunk: Callable[[int], Chunk],
        chunks: range,
        chunks_per_batch: int,
        workers: int,
    ):
        """Makes nothing yet; the first batch has to be waited for.

        Args:
          make_chunk: ``number -> arrays``, a chunk of a batch; must be picklable.
          chunks: numbers of the chunks.
          chunks_per_batch: chunks in turn that are joined to a batch.
          workers: processes; with 0 threads of this process do the work.
        """
        self._numbers = iter(chunks)
        self._per_batch = chunks_per_batch
        self._ahead = max(_BATCHES_AHEAD * chunks_per_batch, 2 * workers)
        self._waiting = deque()
        if workers:
            self._executor = ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(make_chunk,),
            )
            self._task = _in_worker
        else:
            self._executor = ThreadPoolExecutor(_THREADS)
            self._task = make_chunk
        # Also if nobody closes this, and before the interpreter takes itself apart.
        self._end = weakref.finalize(self, self._executor.shutdown, cancel_futures=True)

    def __next__(self) -> Chunk:
        try:
            chunks = [self._next_chunk() for _ in range(self._per_batch)]
        except BaseException:  # an interrupt too
            self.close()
            raise
        return tuple(np.concatenate(arrays) for arrays in zip(*chunks, strict=True))

    def _next_chunk(self) -> Chunk:
        while len(self._waiting) <= self._ahead:
            number = next(self._numbers, None)
            if number is None:
                break
            self._waiting.append(self._executor.submit(self._task, number))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft().result()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Sends the workers home and waits until they are; no further batch comes."""
        self._numbers = iter(())
        self._waiting.clear()
        self._end()


_make_chunk = None


def _start_worker(make_chunk: Callable[[int], Chunk]) -> None:
    """What a worker is given once, with how long it lives: as long as its parent."""
    global _make_chunk
    _make_chunk = make_chunk
    # A signal to the whole group, such as Ctrl-C, is for the parent to answer, which
    # may need batches to finish what it is doing.
    if os.name == "posix":
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _in_worker(number: int) -> Chunk:
    return _make_chunk(number)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
