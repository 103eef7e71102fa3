"""Figures that tests make, for the documentation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def note(what: str, figures: Mapping[str, Any]) -> None:
    """Append to the file that `WEFT_FIGURES` names, if it names one; `benchmarks/reliability.py` reads it."""
    if file := os.environ.get("WEFT_FIGURES"):
        with Path(file).open("a") as stream:
            stream.write(json.dumps({"what": what, **figures}) + "\n")
