"""What no merge can beat: read every byte of some files once, write as many as the output has, and sync.

Use: python benchmarks/floor.py OUT BYTES INPUT...
"""

from __future__ import annotations

import os
import sys

CHUNK = 8 << 20


def main(out: str, size: int, inputs: list[str]) -> None:
    buffer = memoryview(bytearray(CHUNK))
    for path in inputs:
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while size > 0:
        size -= os.write(descriptor, buffer[: min(size, CHUNK)])
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
