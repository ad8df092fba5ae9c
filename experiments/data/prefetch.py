"""Prefetching of batches, in threads or in processes.

This module uses the executors of the standard library. grain, which decides what is in
a batch, has its own ``mp_prefetch``; but in versions 0.2.17 and 0.2.18 that fails in
programs that do not parse absl's flags, and prints messages at exit in others.
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
    """An iterator over batches that background workers prefetch.

    The workers end after the last batch, after an error, with ``close``, or at the end
    of a ``with`` block. They prefetch two batches, or two chunks per process if that is
    more.

    Processes are spawned, because JAX's threads do not survive a fork. Each imports the
    main module again.
    """

    def __init__(
        self,
        make_chunk: Callable[[int], Chunk],
        chunks: range,
        chunks_per_batch: int,
        workers: int,
    ):
        """Creates the executor; work starts with the first ``next``.

        Args:
          make_chunk: ``number -> arrays``, makes one chunk of a batch; picklable.
          chunks: numbers of the chunks.
          chunks_per_batch: number of consecutive chunks that are joined to a batch.
          workers: number of processes; 0 uses threads of this process.
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
        # Shuts down also if `close` is never called, and before interpreter teardown.
        self._end = weakref.finalize(self, self._executor.shutdown, cancel_futures=True)

    def __next__(self) -> Chunk:
        try:
            chunks = [self._next_chunk() for _ in range(self._per_batch)]
        except BaseException:  # KeyboardInterrupt too
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
        """Stops the workers and waits until they end; no further batch is returned."""
        self._numbers = iter(())
        self._waiting.clear()
        self._end()


_make_chunk = None


def _start_worker(make_chunk: Callable[[int], Chunk]) -> None:
    """Initialises a worker process, which ends when its parent ends."""
    global _make_chunk
    _make_chunk = make_chunk
    # Signals to the process group, such as Ctrl-C, are handled by the parent alone. It
    # may still need batches before it stops.
    os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _in_worker(number: int) -> Chunk:
    return _make_chunk(number)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
