"""The golden cases: inputs and outputs of the official code, as data.

`cases("dare")` reads `tests/golden/dare/manifest.json`; TIES and Fisher share `tests/golden/manifest.json`. A case
keeps its tensors in two files (`inputs` and `outputs`, groups written `model_0/name`) or in one (groups written
`model0::name`, inputs and outputs together); both are read with the same words here.
"""

from __future__ import annotations

import json
import re
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
    """One run of official code.

    Attributes:
        id: method and name, such as `ties/t01`.
        entry: what the manifest says about it.
    """

    id: str
    entry: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters, in the official words."""
        return dict(self.entry["hyperparameters"])

    parameters = options

    @property
    def tolerance(self) -> dict[str, float]:
        """`rtol` and `atol` for every comparison with this case."""
        return dict(self.entry["comparison"])

    @property
    def base(self) -> StateDict:
        """The tensors of the base."""
        return self.inputs("base")

    @property
    def models(self) -> list[StateDict]:
        """The tensors of every model."""
        return self.each("model")

    @property
    def masks(self) -> list[StateDict]:
        """What was drawn: per model (or per part of the case), which entries are kept."""
        drawn = self.each("keep_mask") or [self.inputs("keep_mask")]
        return [{name: mask.astype(bool) for name, mask in masks.items()} for masks in drawn if masks]

    def tuned(self) -> list[StateDict]:
        return self.models

    def inputs(self, group: str) -> StateDict:
        return self._group("inputs", group)

    def outputs(self, group: str) -> StateDict:
        return self._group("outputs", group)

    def input(self, name: str) -> np.ndarray:
        return self._read("inputs")[name]

    def output(self, name: str) -> np.ndarray:
        return self._read("outputs")[name]

    def groups(self) -> dict[str, StateDict]:
        """All that is stored with the outputs, by group; a tensor without group is one, its name in it empty."""
        result: dict[str, StateDict] = {}
        for whole, tensor in self._read("outputs").items():
            group, _, name = re.match(r"(.*?)(::|/|$)(.*)", whole).groups()
            result.setdefault(group, {})[name] = tensor
        return result

    def each(self, group: str) -> list[StateDict]:
        """The tensors of a group that exists once per model, in the order of the models."""
        tensors = {**self._read("outputs"), **self._read("inputs")}
        matches = [re.match(rf"{group}_?(\d+)(/|::)", name) for name in tensors]
        groups = sorted({(int(match[1]), match[0]) for match in matches if match})
        return [_below(prefix, tensors) for _, prefix in groups]

    def assert_close(self, ours: StateDict, theirs: StateDict, where: dict[str, np.ndarray] | None = None) -> None:
        assert set(ours) == set(theirs)
        for name, expected in theirs.items():
            chosen = where[name] if where else np.ones(expected.shape, bool)
            np.testing.assert_allclose(
                ours[name][chosen], expected[chosen], **self.tolerance, err_msg=f"{self.id} {name}"
            )

    def _group(self, side: str, group: str) -> StateDict:
        tensors = self._read(side)
        return {**_below(f"{group}/", tensors), **_below(f"{group}::", tensors)}

    def _read(self, side: str) -> StateDict:
        place = self.entry["tensors"] if "tensors" in self.entry else self.entry[side]
        return load_file(FOLDER / place["file"])


def _below(prefix: str, tensors: StateDict) -> StateDict:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@cache
def cases(method: str) -> dict[str, Case]:
    """The cases of a method by their ids."""
    own = FOLDER / method / "manifest.json"
    manifest = json.loads((own if own.exists() else FOLDER / "manifest.json").read_text(encoding="utf-8"))
    return {c["id"]: Case(c["id"], c) for c in manifest["cases"] if c["method"] == method}
