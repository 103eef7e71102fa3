"""Write a base and three fine-tunes of 494 million parameters in bfloat16.

Use: python benchmarks/make_synthetic.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from synthetic import llama_like, write_model

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_model(folder / "base", llama_like(), seed=0)
    for k, name in enumerate("abc", start=1):
        write_model(folder / name, llama_like(), seed=k, change=0.001)
