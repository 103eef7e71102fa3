"""The benchmarks measure what they say, and the page of figures says what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import floor  # noqa: E402
import measuring  # noqa: E402
import results  # noqa: E402
import synthetic  # noqa: E402
import tables  # noqa: E402
import targets  # noqa: E402

from kernels import Cost  # noqa: E402
from weft.checkpoints.opening import open_checkpoint  # noqa: E402
from weft.kernels.decoding import decoded  # noqa: E402
from weft.kernels.dtypes import BFLOAT16, FLOAT32  # noqa: E402

PYTHON = sys.executable
MB = 10**6


@pytest.mark.parametrize("size", [0, 1, floor.CHUNK, 2 * floor.CHUNK + 5, 40 * floor.CHUNK])
def test_the_floor_reads_every_byte_once_and_writes_every_byte_once(tmp_path: Path, size: int) -> None:
    inputs = [_file(tmp_path / "a", 3 * floor.CHUNK + 7), _file(tmp_path / "b", 0), _file(tmp_path / "c", 9)]
    files = [path.open("rb") for path in inputs]
    found = list(floor.steps([file.fileno() for file in files], -1, size))
    for file, path in zip(files, inputs, strict=True):
        assert _covered(found, file.fileno()) == path.stat().st_size
        file.close()
    assert _covered(found, -1) == size


def _covered(steps: list[floor.Step], file: int) -> int:
    """How far the steps of a file go without a gap or an overlap."""
    reached = 0
    for _, _, start, count in sorted(step for step in steps if step[1] == file):
        assert start == reached
        assert count > 0
        reached += count
    return reached


def _file(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


def test_the_floor_writes_a_file_of_the_size_asked_for(tmp_path: Path) -> None:
    source = _file(tmp_path / "in", 2 * floor.CHUNK + 3)
    floor.main(str(tmp_path / "out"), floor.CHUNK + 1, 2, [str(source)])
    assert (tmp_path / "out").stat().st_size == floor.CHUNK + 1


@pytest.mark.skipif(not measuring.PROCESSES.exists(), reason="the kernel tells nothing of children here")
def test_the_peak_is_of_the_process_and_its_children_and_not_of_who_started_them() -> None:
    mine = np.ones(300 * MB, np.uint8)
    hold = "import time; kept = bytearray(b'x') * {size}; time.sleep(0.3)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold.format(size=100 * MB)!r}]);"
    done = measuring.timed([PYTHON, "-c", f"kept = bytearray(b'x') * {60 * MB}; {outer}"], {})
    assert 160 * MB < done.peak < 160 * MB + 60 * MB
    assert mine[0] == 1


def test_a_command_that_fails_ends_everything_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match="it went wrong"):
        measuring.timed([PYTHON, "-c", "raise ValueError('it went wrong')"], {})


def test_every_round_begins_with_another_and_the_slow_take_part_once(tmp_path: Path) -> None:
    names = ("a", "b", "slow")
    every = [measuring.Contender(name, (PYTHON, "-c", ""), once=name == "slow") for name in names]
    told: list[str] = []
    found = measuring.measure(every, 2, lambda text: told.append(text.split(": ")[1]))
    assert told == ["a", "b", "b", "slow", "a", "a", "b"]
    assert [len(result.seconds) for result in found] == [2, 2, 1]


def test_what_has_a_floor_runs_between_two_runs_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    floors = [measuring.Contender(name, (name,)) for name in ("floor 1", "floor 2")]
    merges = [measuring.Contender(name, (name,), floor=f"floor {name[-1]}") for name in ("a1", "b1", "c2")]
    clock = iter(range(1, 100))
    monkeypatch.setattr(measuring, "run", lambda contender: measuring.Run(float(next(clock)), 0, ""))
    told: list[str] = []
    found = measuring.measure([*floors, *merges], 1, lambda text: told.append(text.split(": ")[1]))
    assert told[:8] == ["floor 1", "a1", "floor 1", "b1", "floor 1", "floor 2", "c2", "floor 2"]
    assert told[8:] == ["floor 1", "b1", "floor 1", "floor 2", "c2", "floor 2", "floor 1", "a1", "floor 1"]
    by_name = {result.contender.name: result for result in found}
    assert {name: by_name[name].floors for name in ("b1", "c2", "a1")} == {"b1": [10.0], "c2": [13.0], "a1": [16.0]}
    assert by_name["floor 1"].seconds == [9.0, 11.0, 15.0, 17.0]
    assert by_name["b1"].seconds == [10.0]


def test_a_fresh_run_finds_nothing_compiled_and_output_is_removed(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['WEFT_CACHE'], file=sys.stderr); open(sys.argv[1], 'x')"
    output = tmp_path / "out"
    asked = measuring.Contender("fresh", (PYTHON, "-c", program, str(output)), output, fresh=True)
    first, second = measuring.run(asked), measuring.run(asked)
    assert first.said != second.said
    assert not output.exists()
    assert not Path(first.said.strip()).exists()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float8_e4m3fn"])
def test_a_fine_tune_differs_from_its_base_by_small_changes(tmp_path: Path, name: str) -> None:
    shapes = synthetic.llama_like(layers=1, hidden=256, inner=512, kv=128, vocabulary=50)
    specs = synthetic.stored(shapes, synthetic.BY_NAME[name])
    config = synthetic.llama_config(1, 50, synthetic.BY_NAME[name])
    for seed in (0, 1):
        synthetic.write_model(tmp_path / str(seed), synthetic.Model(specs, seed, config=config))
    base, tuned = (_numbers(tmp_path / str(seed), "model.layers.0.mlp.gate_proj.weight") for seed in (0, 1))
    assert base.std() == pytest.approx(synthetic.SPREAD, rel=0.05)
    assert 0 < (tuned - base).std() < 2 * synthetic.CHANGE


def test_a_fisher_tells_its_norm(tmp_path: Path) -> None:
    specs = synthetic.stored({"w": (300, 1000)}, FLOAT32)
    synthetic.write_model(tmp_path / "f", synthetic.Model(specs, 1, "fisher"))
    values = _numbers(tmp_path / "f", "w")
    told = float(open_checkpoint(tmp_path / "f", "fisher").metadata["norm"])
    assert values.min() >= 0
    assert np.linalg.norm(values.astype(np.float64)) == pytest.approx(told, rel=0.02)


def test_what_is_not_filled_is_zero(tmp_path: Path) -> None:
    specs = synthetic.stored({"w": (400, 1000)}, BFLOAT16)
    synthetic.write_model(tmp_path / "m", synthetic.Model(specs, 0, filled=0.75))
    values = _numbers(tmp_path / "m", "w")
    assert np.count_nonzero(values[:300_000]) > 299_000
    assert not values[300_000:].any()


def _numbers(folder: Path, name: str) -> np.ndarray:
    checkpoint = open_checkpoint(folder, "model")
    spec = checkpoint.tensors[name]
    stored = checkpoint.read(name, 0, spec.size, np.empty(spec.nbytes, np.uint8))
    return np.asarray(decoded(stored, spec.dtype), np.float32)


def test_the_shapes_are_as_large_as_they_are_said_to_be() -> None:
    assert sum(spec.size for spec in synthetic.stored(synthetic.llama_like())) == pytest.approx(494e6, rel=0.001)
    assert len(synthetic.stored(synthetic.experts_like())) >= 30_000


def _measured(seconds: float, peak: int = 0) -> results.Results:
    rows = [
        results.Row("floor", [2.0, 1.0, 3.0], 0),
        results.Row("weft linear", [9.0, seconds, 0.1], peak, "floor", budget=256 * MB, floors=[1.0, 2.0, 1.0]),
    ]
    return results.Results({"cores": 2}, {"llama": results.Section("", rows)})


@pytest.mark.parametrize(("seconds", "met"), [(2.6, True), (2.62, False)])
def test_a_ratio_is_the_median_of_runs_beside_their_floors_and_judged_by_its_target(seconds: float, met: bool) -> None:
    ratio, *_ = targets.judged(_measured(seconds))
    assert (ratio.work, ratio.measured, ratio.met) == ("0.5 billion parameters: linear", f"{seconds / 2:.2f} x", met)


@pytest.mark.parametrize(("peak", "met"), [(606 * MB, True), (607 * MB, False)])
def test_memory_is_judged_by_what_comes_beside_the_budget(peak: int, met: bool) -> None:
    assert targets.judged(_measured(1.0, peak))[-1].met is met


@pytest.mark.parametrize(("dearest", "met"), [(0.15, True), (0.16, False)])
def test_compute_is_judged_by_the_dearest_number_of_models(dearest: float, met: bool) -> None:
    costs = [Cost("ties", models, cached, 1.0) for models, cached in ((2, 0.1), (8, dearest), (24, 0.12), (64, 0.31))]
    flat, graceful = targets.judged(results.Results({}, {}, costs))
    assert flat.met is met
    assert graceful.measured == "3.10 x"
    assert not graceful.met


def test_figures_are_kept_as_they_are_and_those_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    old, new = _measured(1.0), results.Results({"cores": 2}, {}, [Cost("ties", 2, 0.1, 0.2)])
    old.joined(new).save(tmp_path / "figures.json")
    kept = results.load(tmp_path / "figures.json")
    assert kept.sections["llama"].ratio("weft linear") == 0.5
    assert kept.costs == new.costs
    assert not old.joined(results.Results({"cores": 3})).sections


def test_the_page_says_what_was_measured() -> None:
    page = (ROOT / "docs/performance.md").read_text("utf-8")
    assert tables.MARKED.search(page)
    assert tables.filled(page, results.load(ROOT / "docs/performance.json")) == page, (
        "python benchmarks/bench.py --draw"
    )
