"""The golden cases: inputs and outputs of the official code, as data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent / "golden"
StateDict = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    id: str
    entry: dict[str, Any]

    @property
    def models(self) -> int:
        return int(self.entry["n_models"])

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.entry["hyperparameters"])

    def inputs(self, group: str) -> StateDict:
        return self._group("inputs", group)

    def outputs(self, group: str) -> StateDict:
        return self._group("outputs", group)

    def output(self, name: str) -> np.ndarray:
        return load_file(FOLDER / self.entry["outputs"]["file"])[name]

    def tuned(self) -> list[StateDict]:
        return [self.inputs(f"model_{i}") for i in range(self.models)]

    def assert_close(self, ours: StateDict, theirs: StateDict, where: dict[str, np.ndarray] | None = None) -> None:
        assert set(ours) == set(theirs)
        tolerance = self.entry["comparison"]
        for name, expected in theirs.items():
            chosen = where[name] if where else np.ones(expected.shape, bool)
            np.testing.assert_allclose(
                ours[name][chosen],
                expected[chosen],
                rtol=tolerance["rtol"],
                atol=tolerance["atol"],
                err_msg=f"{self.id} {name}",
            )

    def _group(self, side: str, group: str) -> StateDict:
        tensors = load_file(FOLDER / self.entry[side]["file"])
        return {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}


@cache
def cases(method: str) -> dict[str, Case]:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    return {c["id"]: Case(c["id"], c) for c in manifest["cases"] if c["method"] == method}
