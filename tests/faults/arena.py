"""Merges that are killed, in processes of their own; started warm, so that hundreds of them take seconds.

Run as a program, it takes a request as JSON on standard input and prints what came of it:

    {"folder": ..., "scenario": "ties", "variant": "new", "eager": true, "kinds": ["half"], "step": 7, "offset": 3}

From the first call of the operating system to the last, or to `last`, it strikes at every seventh. For every strike a
copy of the process begins the merge and is struck at that call; what lies in the output's place is looked at; then
another copy gives the same command, undisturbed, and the output is compared with the expected bytes.

Kind `clock` strikes at a time instead, in steps of `tick` milliseconds. With `twice`, the copy that goes on is struck
too, at some other call, and a third one ends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import weft
from tests.faults.layer import Layer, faulty
from weft.checkpoints import swap
from weft.checkpoints.beside import JOURNAL, STAGING, beside
from weft.checkpoints.leftovers import remove_begun
from weft.engine import journal, settings, snapshots

SCENARIOS: dict[str, dict[str, Any]] = {
    "ties": {"method": "ties", "parameters": {"density": 0.3}},
    "ties-tensor": {"method": "ties", "parameters": {"density": 0.3, "scope": "tensor"}},
    "della-ties": {"method": "ties", "before": {"method": "della"}, "parameters": {"density": 0.3}},
    "linear": {"method": "linear"},
    "masks": {"method": "linear"},
    "masks-ties": {"method": "ties", "parameters": {"density": 0.3}},
}
VARIANTS = ("new", "overwrite", "two-steps", "file")
"""A new folder; one in the place of an older; the same where the system cannot exchange two; one file."""


def build(folder: Path) -> None:
    """A base and three models, sharded; with a constant mask for one of the scenarios."""
    generator = np.random.default_rng(7)
    shapes = {"a": (40, 900), "b": (70_001,), "c": (), "norm.running_var": (33,), "d": (3, 17, 40)}
    base = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    base["norm.running_var"] = np.abs(base["norm.running_var"])
    for name in ("base", "one", "two", "three"):
        for with_mask in (False, True):
            noisy = {k: v + (generator.normal(size=v.shape) * 0.1).astype(np.float32) for k, v in base.items()}
            model = base if name == "base" else noisy
            extra = {"mask": np.full((5, 5), -np.inf, np.float32)} if with_mask else {}
            _save({**model, **extra}, folder / ("masked" if with_mask else "plain") / name)


def _save(model: dict[str, Any], folder: Path) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    save_file({k: np.ascontiguousarray(v) for k, v in model.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "who": folder.name}))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")


def merge(folder: Path, scenario: str, target: Path, overwrite: bool) -> weft.Report:
    """One merge of a scenario."""
    place = folder / ("masked" if scenario.startswith("masks") else "plain")
    recipe = {**SCENARIOS[scenario], "models": [str(place / name) for name in ("one", "two", "three")]}
    if SCENARIOS[scenario]["method"] == "ties":
        recipe["base"] = str(place / "base")
    recipe["output"] = {"shard_size": "200kB"}
    return weft.merge_to(recipe, target, overwrite=overwrite, workers=2)


def digest(place: Path) -> str:
    """All bytes of an output; empty if there is none."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place] if place.exists() else []
    told = [(str(f.relative_to(place)), f.read_bytes()) for f in files if f.is_file()]
    return hashlib.sha256(repr(told).encode()).hexdigest() if told else ""


def in_a_copy(work: Callable[[], Any], milliseconds: float = 0) -> dict[str, Any]:
    """Do something in a copy of this process, killed after so many milliseconds; how it ended and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            said = {"ok": True, "said": work()}
        except weft.WeftError as error:
            said = {"ok": False, "said": str(error)}
        except BaseException:
            said = {"ok": False, "said": traceback.format_exc()}
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    if milliseconds:
        time.sleep(milliseconds / 1000)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"ok": False, "said": "killed"}


class Arena:
    """One scenario in one variant, struck again and again.

    Args:
        folder: where models and outputs lie.
        scenario: what is merged.
        variant: how it is put in its place.
        eager: keep the journal after every tile, instead of a few times a second.
        tick: milliseconds of one step of the clock.
        twice: whether to strike a second time, at the merge that goes on.
    """

    def __init__(
        self, folder: Path, scenario: str, variant: str, eager: bool, tick: float = 1.0, twice: bool = False
    ) -> None:
        self._folder = folder
        self._scenario = scenario
        self._tick = tick
        self._twice = twice
        self._overwrites = variant in ("overwrite", "two-steps")
        self._target = folder / "outputs" / ("merged.safetensors" if variant == "file" else "merged")
        if eager:
            journal._INTERVAL = snapshots._INTERVAL = snapshots._WORTHWHILE = -1.0
            journal._SYNC_INTERVAL = 0.01
        if variant == "two-steps":
            swap._exchanged = lambda *_: False
        settings._LONGEST_TILE = settings.BLOCK
        self._old = self._new = ""
        self._warm()
        self._reset()
        self.calls = len(in_a_copy(lambda: self._logged())["said"])
        self._new = digest(self._target)
        assert self._new

    def _warm(self) -> None:
        """Load what is compiled, so that copies of this process need not: an idle merge syncs, and does little else."""
        merge(self._folder, self._scenario, self._folder / "warm" / self._target.name, False)
        shutil.rmtree(self._folder / "warm")

    def _logged(self) -> list[str]:
        with faulty(Layer()) as layer:
            self._merge()
        return layer.log

    def _merge(self) -> bool:
        return merge(self._folder, self._scenario, self._target, self._overwrites).continued

    def _reset(self) -> None:
        shutil.rmtree(self._target.parent, ignore_errors=True)
        self._target.parent.mkdir()
        if self._overwrites:
            merge(self._folder, "ties-tensor" if self._scenario == "linear" else "linear", self._target, False)
            self._old = digest(self._target)

    def strike(self, call: int, kind: str) -> dict[str, Any]:
        """Strike once or twice, look each time, go on, compare."""
        self._reset()
        struck = self._hit(call, kind)
        if self._is_through() and not self._left():
            return {"call": call, "kind": kind, "struck": ""}  # before it was struck
        is_whole = self._is_whole()
        again = 0
        if self._twice:
            again = random.Random(call).randint(1, self.calls if kind != "clock" else call)
            self._hit(again, kind, "another")
            is_whole = is_whole and self._is_whole()
        went_on = in_a_copy(lambda: self._went_on(kind))
        return {
            "call": call,
            "kind": kind,
            "struck": struck,
            "again": again,
            "whole": is_whole,
            "went_on": went_on["ok"],
            "continued": went_on["said"],
            "same": digest(self._target) == self._new,
            "left": self._left(),
        }

    def _is_through(self) -> bool:
        return digest(self._target) == self._new and not (beside(self._target, STAGING) / JOURNAL).exists()

    def _left(self) -> list[str]:
        return [path.name for path in self._target.parent.iterdir() if path != self._target]

    def _is_whole(self) -> bool:
        """Whether the old output or the new one is there in full; or neither, if there was none, or it is put aside."""
        between = digest(self._target)
        if not between and self._overwrites:
            return digest(swap.old_path(self._target)) == self._old
        return between in (self._old, self._new)

    def _hit(self, call: int, kind: str, boot: str = "") -> str:
        """Begin, or go on, and be struck; what the merge said."""
        if kind == "clock":
            return str(in_a_copy(lambda: self._struck(Layer()), call * self._tick)["said"])
        return str(in_a_copy(lambda: self._struck(Layer(call, kind, call), boot if kind == "power" else ""))["said"])

    def _struck(self, layer: Layer, boot: str = "") -> list[str]:
        if boot:
            journal._boot = lambda: boot
        with faulty(layer):
            self._merge()
        return layer.log

    def _went_on(self, kind: str) -> bool:
        if kind == "power":
            journal._boot = lambda: "yet another"
        if self._is_through():  # killed as it put its things away: for `weft clean`
            remove_begun(self._target)
            return True
        return self._merge()


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.stdin.read())
    folder = Path(request["folder"])
    if not (folder / "plain").exists():
        build(folder)
    arena = Arena(
        folder,
        request["scenario"],
        request["variant"],
        request["eager"],
        request.get("tick", 1.0),
        request.get("twice", False),
    )
    last = request.get("last") or arena.calls
    every = [(call, kind) for call in range(1, last + 1) for kind in request["kinds"]]
    chosen = every[request.get("offset", 0) :: request.get("step", 1)]
    print(json.dumps({"calls": arena.calls, "strikes": [arena.strike(*one) for one in chosen]}))


if __name__ == "__main__":
    main()
