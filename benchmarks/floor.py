"""What no merge can beat: read every byte of some files once, write as many as the output has, and sync.

Reads and writes are large, alternate as a stream's would, and are shared among threads.

Use: python benchmarks/floor.py OUT BYTES THREADS INPUT...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

CHUNK = 1 << 20
"""Bytes of one read or write. Larger ones are slower: the copy then leaves the processor's cache."""

Step = tuple[bool, int, int, int]
"""Whether it is a write, the file, the first byte, how many."""


def steps(inputs: list[int], output: int, size: int) -> Iterator[Step]:
    """Every read, and after each as much writing as is then due."""
    total = sum(os.fstat(file).st_size for file in inputs)
    seen = written = 0
    for file in inputs:
        length = os.fstat(file).st_size
        for start in range(0, length, CHUNK):
            count = min(CHUNK, length - start)
            yield False, file, start, count
            seen += count
            while written + CHUNK <= size * seen // total:
                yield True, output, written, CHUNK
                written += CHUNK
    if size > written:
        yield True, output, written, size - written


def work(queue: Iterator[Step], lock: Lock) -> None:
    """Do steps until there are none."""
    buffer = memoryview(bytearray(CHUNK))
    while True:
        with lock:
            step = next(queue, None)
        if step is None:
            return
        is_write, file, start, count = step
        moved = os.pwrite(file, buffer[:count], start) if is_write else os.preadv(file, [buffer[:count]], start)
        if moved != count:
            raise OSError(f"{moved} bytes moved instead of {count}")


def main(out: str, size: int, threads: int, inputs: list[str]) -> None:
    files = [os.open(path, os.O_RDONLY) for path in inputs]
    output = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    queue, lock = steps(files, output, size), Lock()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, queue, lock) for _ in range(threads)]:
            done.result()
    os.fsync(output)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
