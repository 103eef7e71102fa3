"""What is measured: for each workload its checkpoints, and the commands that merge them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measuring import Contender
from synthetic import FLOAT8, Model, experts_like, llama_config, llama_like, stored, write_model

from weft.checkpoints.checkpoint import TensorSpec
from weft.engine.settings import Settings
from weft.kernels.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType

HERE = Path(__file__).parent
GIB = 1 << 30
BUDGETS = {"2GiB": 2 * GIB, "256MB": 256 * 10**6}
TUNED = ("a", "b", "c")
ALL = ("base", *TUNED)


@dataclass(frozen=True)
class Workload:
    """A folder of checkpoints, and what is done to them.

    Attributes:
        key: what to call it in the results.
        title: what it is.
        rounds: how often it is measured.
        build: writes the checkpoints into a folder.
        contenders: the commands over that folder.
    """

    key: str
    title: str
    rounds: int
    build: Callable[[Path], None]
    contenders: Callable[[Path], list[Contender]]


def workloads(quick: bool) -> list[Workload]:
    """All of them; with `quick` a tenth of the size."""
    return [_llama(quick), _fisher(quick), _experts(quick), _embedding(quick), _formats(quick), _tiny()]


def _llama(quick: bool) -> Workload:
    def contenders(folder: Path) -> list[Contender]:
        return [
            floor(folder, ALL),
            floor(folder, TUNED),
            weft(folder, "linear", TUNED),
            weft(folder, "linear", TUNED, memory="256MB"),
            weft(folder, "task_arithmetic", ALL),
            weft(folder, "ties", ALL, "scope=tensor"),
            weft(folder, "ties", ALL, "scope=tensor", memory="256MB"),
            weft(folder, "ties", ALL),
            weft(folder, "ties", ALL, memory="256MB"),
            replace(_torch(folder, "linear"), once=True),
        ]

    title = f"{_llama_title(quick)}, bfloat16, sharded: a base and three fine-tunes stored in bfloat16"
    return Workload("llama", title, 5, _llama_builder(quick), contenders)


def peers(quick: bool, mergekit: str) -> Workload:
    """The same models merged by others, and by Weft in the same run.

    Args:
        quick: a tenth of the size.
        mergekit: its command.
    """

    def contenders(folder: Path) -> list[Contender]:
        return [
            floor(folder, ALL),
            floor(folder, TUNED),
            weft(folder, "linear", TUNED),
            weft(folder, "ties", ALL, "scope=tensor"),
            weft(folder, "ties", ALL),
            _torch(folder, "linear"),
            _torch(folder, "ties"),
            _mergekit(folder, mergekit, "linear"),
            _mergekit(folder, mergekit, "ties"),
        ]

    title = f"{_llama_title(quick)}, bfloat16: others beside Weft"
    return Workload("peers", title, 3, _llama_builder(quick), contenders)


def _llama_title(quick: bool) -> str:
    shapes = _llama_shapes(quick)
    return f"Llama-like, {sum(spec.size for spec in stored(shapes)) / 1e6:.0f} million parameters"


def _llama_shapes(quick: bool) -> dict[str, tuple[int, ...]]:
    return llama_like(layers=2, vocabulary=20000) if quick else llama_like()


def _llama_builder(quick: bool) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        config = llama_config(*((2, 20000) if quick else (24, 151936)))
        _write_family(folder, stored(_llama_shapes(quick)), ALL, config=config)

    return build


def _fisher(quick: bool) -> Workload:
    shapes = llama_like(layers=1, vocabulary=20000) if quick else llama_like(layers=6)

    def build(folder: Path) -> None:
        _write_family(folder, stored(shapes), TUNED)
        for seed, name in enumerate(TUNED, 1):
            write_model(folder / f"fisher-{name}", Model(stored(shapes, FLOAT32), seed, "fisher"))

    def contenders(folder: Path) -> list[Contender]:
        fishers = tuple(f"fisher-{name}" for name in TUNED)
        given = json.dumps({name: str(folder / f"fisher-{name}") for name in TUNED})
        merged = weft(folder, "fisher", TUNED, f"fisher={given}", aside=fishers)
        return [floor(folder, (*TUNED, *fishers)), merged]

    count = sum(spec.size for spec in stored(shapes)) / 1e6
    title = f"Llama-like, {count:.0f} million parameters: three models in bfloat16, their Fishers in float32"
    return Workload("fisher", title, 5, build, contenders)


def _experts(quick: bool) -> Workload:
    specs = stored(experts_like(layers=4 if quick else 48))

    def contenders(folder: Path) -> list[Contender]:
        planned = weft(folder, "task_arithmetic", ALL)
        command = ("plan", "-m", "task_arithmetic", *_based(folder, ALL))
        return [
            floor(folder, ALL),
            replace(planned, name="weft plan", command=_python("weft", *command), output=None, floor=""),
            planned,
            weft(folder, "ties", ALL, "scope=tensor"),
            weft(folder, "ties", ALL),
        ]

    title = f"Mixture of experts, {len(specs):,} tensors of 25 kB, bfloat16: a base and three fine-tunes"
    return Workload("experts", title, 3, lambda folder: _write_family(folder, specs, ALL), contenders)


def _embedding(quick: bool) -> Workload:
    shape = (32768, 1024) if quick else (262144, 4096)
    specs = [
        TensorSpec("model.embed_tokens.weight", BFLOAT16, shape),
        TensorSpec("model.norm.weight", BFLOAT16, shape[1:]),
    ]
    models = ("base", "a")

    def build(folder: Path) -> None:
        _write_family(folder, specs, models, filled=0.75)

    def contenders(folder: Path) -> list[Contender]:
        methods = ("task_arithmetic", "ties")
        merges = [weft(folder, method, models, memory=budget) for budget in BUDGETS for method in methods]
        return [floor(folder, models), *merges]

    title = f"One embedding of {shape[0]:,} x {shape[1]:,}, {specs[0].nbytes / 1e9:.1f} GB: a base and one fine-tune"
    return Workload("embedding", title, 2, build, contenders)


VARIANTS: dict[str, dict[str, DType]] = {
    "bfloat16": dict.fromkeys(ALL, BFLOAT16),
    "float16": dict.fromkeys(ALL, FLOAT16),
    "float32": dict.fromkeys(ALL, FLOAT32),
    "mixed": {"base": BFLOAT16, "a": FLOAT32, "b": FLOAT16, "c": BFLOAT16},
    "float8": dict.fromkeys(ALL, FLOAT8),
}


def _formats(quick: bool) -> Workload:
    layers = 2 if quick else 12
    vocabulary = 2000 if quick else 20000

    def depth(variant: str) -> int:
        """So many layers that every variant has about as many bytes."""
        width = np.mean([dtype.itemsize for dtype in VARIANTS[variant].values()])
        return max(round(layers * 2 / width), 1)

    def build(folder: Path) -> None:
        for variant, dtypes in VARIANTS.items():
            shapes = llama_like(layers=depth(variant), vocabulary=vocabulary)
            for seed, (name, dtype) in enumerate(dtypes.items()):
                config = llama_config(depth(variant), vocabulary, dtype)
                write_model(folder / variant / name, Model(stored(shapes, dtype), seed, config=config))

    def contenders(folder: Path) -> list[Contender]:
        found = []
        for variant in VARIANTS:
            for made in (
                floor(folder / variant, ALL),
                weft(folder / variant, "task_arithmetic", ALL),
                weft(folder / variant, "ties", ALL),
            ):
                own = f"{variant}: {made.floor}" if made.floor else ""
                found.append(replace(made, name=f"{variant}: {made.name}", floor=own))
        return found

    title = "Number formats, about as many bytes of each: a base and three fine-tunes"
    return Workload("formats", title, 3, build, contenders)


def _tiny() -> Workload:
    def contenders(folder: Path) -> list[Contender]:
        cached = replace(weft(folder, "ties", ALL), name="kernels cached", floor="")
        loud = tuple(part for part in cached.command if part != "-q")
        return [cached, replace(cached, name="nothing compiled yet", command=loud, fresh=True)]

    specs = stored(llama_like(layers=1, hidden=64, inner=128, kv=32, vocabulary=100))
    title = "A tiny merge (TIES over three models), from command to prompt"
    return Workload("tiny", title, 3, lambda folder: _write_family(folder, specs, ALL), contenders)


def _write_family(
    folder: Path,
    specs: Sequence[TensorSpec],
    names: Sequence[str],
    *,
    filled: float = 1.0,
    config: dict[str, object] | None = None,
) -> None:
    for name in names:
        write_model(folder / name, Model(specs, ALL.index(name), filled=filled, config=config or {}))


def floor(folder: Path, inputs: Sequence[str]) -> Contender:
    """Reading these folders, and writing as much as one of the first's shards hold in bfloat16."""
    output = folder / "floor.bin"
    files = [str(file) for name in inputs for file in shards(folder / name)]
    threads = str(Settings().threads)
    size = str(_merged_bytes(folder / inputs[0]))
    command = (sys.executable, str(HERE / "floor.py"), str(output), size, threads, *files)
    return Contender(_floor_name(inputs), command, output, reads=_bytes(files))


def weft(
    folder: Path,
    method: str,
    inputs: Sequence[str],
    *parameters: str,
    memory: str = "2GiB",
    aside: Sequence[str] = (),
) -> Contender:
    """A merge by the command line, as anyone would type it.

    Args:
        folder: where the checkpoints are.
        method: which.
        inputs: folders; if the first is `base`, it is the base.
        parameters: each `name=value`.
        memory: the budget.
        aside: folders that the parameters name.
    """
    output = folder / "out"
    given = [part for each in parameters for part in ("-p", each)]
    command = ("merge", "-q", "-m", method, "-o", str(output), "--memory", memory, *given, *_based(folder, inputs))
    scope = [each.replace("=", ": ") for each in parameters if each.startswith("scope")]
    if method == "ties":
        scope = scope or ["scope: model"]
    label = ", ".join([f"weft {method}", *scope, *([memory] if memory != "2GiB" else [])])
    read = (*inputs, *aside)
    files = [str(file) for name in read for file in shards(folder / name)]
    return Contender(label, _python("weft", *command), output, _floor_name(read), BUDGETS[memory], _bytes(files))


_TRIMMED = {"linear": "linear", "ties": "ties, scope: tensor"}
"""What others' methods are in Weft's words: they trim tensor by tensor."""


def _torch(folder: Path, method: str) -> Contender:
    output = folder / "torch.safetensors"
    program = str(HERE / "torch_loop.py")
    inputs = ALL if method == "ties" else TUNED
    command = (sys.executable, program, method, str(output), *(str(folder / name) for name in inputs))
    return Contender(f"torch loop {_TRIMMED[method]}", command, output, _floor_name(inputs), once=method == "ties")


def _mergekit(folder: Path, command: str, method: str) -> Contender:
    parameters = {"density": 0.2, "weight": 1.0} if method == "ties" else {"weight": 1.0}
    entries = [{"model": str(folder / name), "parameters": parameters} for name in TUNED]
    config = {"merge_method": method, "models": entries, "dtype": "bfloat16"}
    if method == "ties":
        config["base_model"] = str(folder / "base")
    recipe, output = folder / f"mergekit-{method}.yaml", folder / "mergekit"
    recipe.write_text(json.dumps(config))
    line = (command, str(recipe), str(output), "--no-copy-tokenizer")
    floor_name = _floor_name(ALL if method == "ties" else TUNED)
    return Contender(f"mergekit {_TRIMMED[method]}", line, output, floor_name, once=True)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _based(folder: Path, inputs: Sequence[str]) -> list[str]:
    paths = [str(folder / name) for name in inputs]
    return ["-b", *paths] if inputs[0] == "base" else paths


def _floor_name(inputs: Sequence[str]) -> str:
    return f"floor, {len(inputs)} inputs"


def shards(folder: Path) -> list[Path]:
    """The files with tensors."""
    return sorted(folder.glob("*.safetensors"))


def _bytes(files: Sequence[str]) -> int:
    return sum(os.path.getsize(file) for file in files)


def _merged_bytes(reference: Path) -> int:
    """Bytes of the output: those of the reference, whose float8 weights become bfloat16."""
    size = 0
    for file in shards(reference):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        for name, entry in tensors.items():
            begin, end = entry["data_offsets"]
            if not name.endswith("_scale_inv"):
                size += (end - begin) * (2 if entry["dtype"] == FLOAT8.code else 1)
    return size
