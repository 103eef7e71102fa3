"""The tests that every method must pass, for whoever writes one.

    from weft.testing import MethodTests

    class TestMine(MethodTests):
        method = "mine"

pytest then finds them. A method is found by its name, so the package that brings it must be installed (`pip install -e
.` will do). Needs pytest.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from weft.algorithms.method import Law, Method
from weft.algorithms.registry import method
from weft.checkpoints.output import MemorySink
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.merging import merge
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.errors import InputError
from weft.kernels.folds import BLOCK
from weft.recipes.loading import make_recipe

State = dict[str, np.ndarray[Any, Any]]
"""A model: its tensors by name."""

SMALL: Mapping[str, tuple[int, ...]] = {
    "embed.weight": (37, 5),
    "layers.10.weight": (8, 6),
    "layers.2.bias": (6,),
    "layers.2.weight": (6, 11),
    "scalar": (),
    "empty": (0, 3),
}
"""Tensors of many shapes."""

LONG: Mapping[str, tuple[int, ...]] = {"a.weight": (37, 1801), "b.bias": (2 * BLOCK + 7,), "c.bias": (3,)}
"""Tensors that are longer than a tile."""


def drawn(count: int, shapes: Mapping[str, tuple[int, ...]] = SMALL, dtype: str = "float64") -> list[State]:
    """A base and models that are near it.

    Args:
        count: how many models.
        shapes: of the tensors, by name.
        dtype: a number format of numpy.
    """
    rng = np.random.default_rng(11)
    base = {name: (np.round(rng.standard_normal(shape) * 64) / 256).astype(dtype) for name, shape in shapes.items()}
    near = ({n: (t + rng.standard_normal(t.shape) * 0.1).astype(dtype) for n, t in base.items()} for _ in range(count))
    return [base, *near]


class MethodTests:
    """The tests of a method. Subclass it, and name the method.

    Attributes:
        method: its name.
        tolerance: how far, relative and absolute, float64 results may lie from what a law says.
    """

    method: ClassVar[str]
    tolerance: ClassVar[tuple[float, float]] = (1e-12, 1e-13)

    def options(self, base: State, models: Sequence[int]) -> Mapping[str, Any]:
        """What the method needs beside its defaults, such as a Fisher for each model.

        Args:
            base: names and shapes.
            models: which models are merged, by number, in their order; a number stands for the same model in all calls.
        """
        return {}

    @property
    def kind(self) -> type[Method]:
        """The method's class."""
        return method(self.method)

    @property
    def count(self) -> int:
        """How many models are merged here: three, if the method can do that."""
        return 3 if 3 in self.kind.models else self.kind.models[0]

    def merged(self, base: State | None, models: Sequence[State], order: Sequence[int] = (), **options: Any) -> State:
        """Merge, with what the method needs."""
        order = order or range(len(models))
        needed = self.options(base if base is not None else models[0], order)
        return merge(list(models), base=base, method=self.method, **{**needed, **options})

    def close(self, one: State, other: State) -> None:
        """Assert that two models are the same, but for rounding."""
        relative, absolute = self.tolerance
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=relative, atol=absolute, err_msg=name)

    def check_law(self, law: Law, options: Mapping[str, Any]) -> None:
        """Assert that a law holds with these parameters."""
        base, *tuned = drawn(self.count)
        if law is Law.COPIES:
            self.close(self.merged(base, [tuned[0]] * self.count, [0] * self.count, **options), tuned[0])
        elif law is Law.ORDER:
            turned = [*range(1, self.count), 0]
            other = self.merged(base, [tuned[k] for k in turned], turned, **options)
            self.close(other, self.merged(base, tuned, **options))
        elif law is Law.ZERO_DELTAS:
            self.close(self.merged(base, [base] * self.count, **options), base)
        else:
            short = self.merged(base, tuned, **options)
            long = self.merged(base, [_stretched(base, model) for model in tuned], **options)
            self.close(long, _stretched(base, short))

    def _declared(self, law: Law) -> Mapping[str, Any]:
        if law not in self.kind.laws:
            pytest.skip(f"{self.method} does not declare it")
        return self.kind.laws[law]

    # What it says of itself

    def test_it_says_what_it_is(self) -> None:
        for word in ("name", "title", "formula", "source"):
            assert str(getattr(self.kind, word, "")).strip(), f"its class has no {word}"
        assert isinstance(self.kind.needs_base, bool)
        assert self.kind.name == self.method
        assert self.kind.laws, "its class declares no law: `laws = {}` promises nothing"
        text = inspect.getdoc(self.kind) or ""
        assert ".. math::" in text, "its docstring has no formula: write it after `.. math::`"
        assert ":math:" not in text, "formulas inside a line cannot be read on a terminal"
        assert "Source: " in text, "its docstring names no source: write a paragraph that begins with `Source: `"
        assert "Example:" in text, "its docstring has no example: write `Example:`, and lines with `>>>` below"

    def test_the_example_runs(self) -> None:
        module = importlib.import_module(self.kind.__module__)
        finder = doctest.DocTestFinder(recurse=False)
        examples = finder.find(self.kind, self.kind.__name__, module=module, globs=dict(vars(module)))
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
        for example in examples:
            runner.run(example)
        assert runner.tries, "its docstring's example has no `>>>`"
        assert not runner.failures, "its docstring's example gives something else"

    def test_every_parameter_says_what_it_does(self) -> None:
        for name, info in self.kind.model_fields.items():
            assert info.description, f"{name} has no description: declare it with `parameter`"
            assert not info.is_required(), f"{name} has no default"

    def test_the_defaults_are_allowed(self) -> None:
        names = [f"m{k}" for k in range(self.count)]
        settled = self.kind.resolved(names, self.options(drawn(1)[0], range(self.count)))
        assert settled.program() is not None

    def test_parameters_are_bounded(self) -> None:
        names = [f"m{k}" for k in range(self.count)]
        for field, value in _impossible(self.kind):
            with pytest.raises(InputError, match=field):
                self.kind.resolved(names, {field: value})
                pytest.fail(f"{field} takes {value!r}")

    # Its laws

    def test_copies_give_the_model(self) -> None:
        self.check_law(Law.COPIES, self._declared(Law.COPIES))

    def test_order_does_not_matter(self) -> None:
        self.check_law(Law.ORDER, self._declared(Law.ORDER))

    def test_no_change_gives_the_base(self) -> None:
        self.check_law(Law.ZERO_DELTAS, self._declared(Law.ZERO_DELTAS))

    def test_longer_changes_give_a_longer_change(self) -> None:
        self.check_law(Law.SCALING, self._declared(Law.SCALING))

    # How it computes

    def test_tiles_and_workers_change_no_bit(self) -> None:
        base, *tuned = drawn(self.count, LONG, "float32")
        needed = self.options(base, range(self.count))
        parts = {"method": self.method, "base": base, "models": tuned, "parameters": dict(needed)}
        plain = _executed(parts, Settings(workers=1))
        for workers, tile in ((1, BLOCK), (3, BLOCK), (2, 3 * BLOCK)):
            for name, tensor in _executed(parts, Settings(workers=workers, tile=tile)).items():
                assert tensor.tobytes() == plain[name].tobytes(), f"{name}, with tiles of {tile}, {workers} workers"

    def test_formats_shapes_and_inputs_stay_what_they_are(self) -> None:
        base, *tuned = drawn(self.count, dtype="float16")
        before = [{name: t.copy() for name, t in model.items()} for model in (base, *tuned)]
        made = self.merged(base, tuned)
        assert made.keys() == base.keys()
        for name, tensor in made.items():
            assert (tensor.dtype, tensor.shape) == (base[name].dtype, base[name].shape), name
            assert np.isfinite(tensor).all(), name
        for model, copy in zip((base, *tuned), before, strict=True):
            assert all(np.array_equal(model[name], copy[name]) for name in copy), "it changed a model"

    # What it refuses

    def test_without_a_base(self) -> None:
        _, *tuned = drawn(self.count)
        if not self.kind.needs_base:
            assert self.merged(None, tuned).keys() == tuned[0].keys()
            return
        with pytest.raises(InputError, match="needs a base model"):
            self.merged(None, tuned)

    def test_numbers_of_models_that_it_cannot_merge(self) -> None:
        counts = self.kind.models
        for count in {counts.start - 1, counts.stop} - {0, 1 << 16}:
            base, *tuned = drawn(count)
            with pytest.raises(InputError, match=f"merges .*, not {count} "):
                self.merged(base, tuned)

    def test_a_tensor_that_a_model_lacks(self) -> None:
        base, *tuned = drawn(self.count)
        del tuned[-1]["layers.2.bias"]
        with pytest.raises(InputError, match=r"layers\.2\.bias"):
            self.merged(base, tuned)
        copied = self.merged(base, tuned, on_missing="base")["layers.2.bias"]
        assert np.array_equal(copied, base["layers.2.bias"])

    def test_a_model_that_is_left_out_where_it_lacks_a_tensor(self) -> None:
        base, *tuned = drawn(self.count)
        if self.count < 2:
            pytest.skip("without its only model there is nothing to merge")
        del tuned[-1]["layers.2.bias"]
        try:
            made = self.merged(base, tuned, on_missing="skip-model")
        except InputError as refused:
            assert "cannot leave a model out" in str(refused)
        else:
            assert np.isfinite(made["layers.2.bias"]).all()


def _stretched(base: State, model: State) -> State:
    return {name: base[name] + 3 * (model[name] - base[name]) for name in base}


def _impossible(kind: type[Method]) -> Iterator[tuple[str, Any]]:
    """Values that no parameter of a kind may take."""
    for name, schema in kind.model_json_schema()["properties"].items():
        schema = schema.get("items", schema) if kind.is_per_model(name) else schema
        if schema.get("type") == "number":
            yield from ((name, value) for value in (float("nan"), float("inf"), True, "many"))
            yield from (
                (name, schema[bound] + step) for bound, step in (("minimum", -1), ("maximum", 1)) if bound in schema
            )
        elif schema.get("type") == "integer":
            yield from ((name, value) for value in (float("nan"), 0.5, True, "many"))
        elif "enum" in schema:
            yield name, "no such choice"


def _executed(parts: Mapping[str, Any], settings: Settings) -> State:
    recipe = make_recipe(dict(parts))
    inputs = open_inputs(recipe)
    plan = make_plan(recipe, inputs)
    sink = MemorySink(plan.outputs, {}, as_torch=False)
    execute(plan, budget(settings, plan.items), sink, Progress())
    inputs.close()
    return sink.tensors()
