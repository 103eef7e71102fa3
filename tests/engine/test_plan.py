"""What happens to every tensor, and what is said when something does not fit. Nothing is ever skipped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import weft
from weft.engine.progress import Progress

W = np.arange(6, dtype=np.float32).reshape(2, 3)
V = -W


def complaint(*models: dict[str, Any], **options: Any) -> str:
    with pytest.raises(weft.InputError) as caught:
        weft.merge(list(models), **options)
    return str(caught.value)


def warned(*models: dict[str, Any], **options: Any) -> list[str]:
    heard: list[str] = []

    class Listener(weft.Progress):
        def warning(self, text: str) -> None:
            heard.append(text)

    weft.merge(list(models), progress=Listener(), **options)
    return heard


def test_a_missing_tensor_names_the_models_and_the_remedy() -> None:
    text = complaint({"w": W, "layers.0.v": V}, {"w": W, "layer.0.v": V})
    assert "tensor 'layers.0.v' is in model 'model_0' but missing from model 'model_1'" in text
    assert "did you mean 'layer.0.v'?" in text
    assert "`use: drop`" in text


def test_two_shapes_are_both_named() -> None:
    text = complaint({"w": W}, {"w": W.T}, base={"w": W})
    assert "tensor 'w' has shape [2, 3] in base but [3, 2] in model 'model_1'" in text


def test_all_problems_are_told_at_once() -> None:
    text = complaint({"a": W, "b": V, "c": W + 1}, {"a": W.T, "c": W, "d": V})
    assert text.startswith("3 problems:\n1. tensor 'a' has shape")
    assert "tensor 'b' is in" in text
    assert "tensor 'd' is in" in text


def test_a_model_of_another_size_does_not_flood_the_screen() -> None:
    text = complaint({f"a{i}": W + i for i in range(50)}, {f"a{i}": W.T + i for i in range(50)})
    assert text.startswith("50 problems:\n1. tensor 'a0' has shape")
    assert text.endswith("... and 30 more")


def test_a_model_of_another_architecture_is_one_problem() -> None:
    text = complaint({f"a{i}": W + i for i in range(50)}, {f"b{i}": W + i for i in range(50)})
    assert text.startswith("model 'model_1' and model 'model_0' share no tensor name; one has 'b0', the other 'a0'")


def test_models_that_complete_each_other_are_no_strangers() -> None:
    models = {"body": {"w": W}, "head": {"h": V}}
    merged = weft.merge(models, rules=[{"match": "h", "use": "head"}, {"match": "w", "use": "body"}])
    assert list(merged) == ["w", "h"]


def test_another_number_of_layers_is_said_first() -> None:
    deep, shallow = ({f"model.layers.{i}.w": W + i for i in range(n)} | {"norm": V} for n in (9, 7))
    text = complaint(deep, shallow)
    assert text.startswith("3 problems:\n1. model 'model_1' has 7 of model.layers.*, model 'model_0' has 9")
    assert "tensor 'model.layers.8.w' is in" in text


def test_a_model_without_tensors() -> None:
    assert "model 'model_1' holds no tensors" in complaint({"w": W}, {})


def test_a_method_that_needs_a_base_says_so() -> None:
    text = complaint({"w": W}, method="ties")
    assert "method ties needs a base model" in text
    assert "-b" in text


def test_integers_pass_when_equal_and_are_named_when_not() -> None:
    ids = np.arange(4)
    merged = weft.merge([{"w": W, "ids": ids}, {"w": W, "ids": ids.copy()}])
    assert merged["ids"].dtype == np.int64
    assert merged["ids"].tolist() == [0, 1, 2, 3]
    text = complaint({"w": W, "ids": ids}, {"w": W, "ids": ids + 1})
    assert "tensor 'ids' (int64 [4]) is not a float and differs between model 'model_0'" in text
    assert "`use: base`" in text


def test_booleans_pass() -> None:
    mask = np.array([True, False])
    assert weft.merge([{"m": mask, "w": W}, {"m": mask, "w": W}])["m"].tolist() == [True, False]


def test_numbers_of_different_kinds_are_not_mixed() -> None:
    assert "is float32 in model 'model_0' but int64 in model 'model_1'" in complaint(
        {"w": W}, {"w": W.astype(np.int64)}
    )


def test_raw_codes_are_never_merged() -> None:
    """Float8 is decoded first: codes 0x38 and 0x48 stand for 1 and 4, their mean 0x40 for 2."""
    one, four = (torch.full((3,), value).to(torch.float8_e4m3fn) for value in (1.0, 4.0))
    assert weft.merge([{"w": one}, {"w": four}])["w"].tolist() == [2.5] * 3
    copied = weft.merge({"a": {"w": one}, "b": {"w": four}}, rules=[{"match": "w", "use": "b"}])["w"]
    assert (copied.dtype, copied.tolist()) == (torch.bfloat16, [4.0] * 3)
    scale = {"w": torch.full((3,), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)}
    assert "its codes cannot be averaged" in complaint(scale, scale)


def test_rules_copy_and_drop_before_shapes_are_compared() -> None:
    models = {"a": {"w": W, "head": V}, "b": {"w": W, "head": V[:1]}}
    merged = weft.merge(models, rules=[{"match": "head", "use": "b"}])
    assert merged["head"].shape == (1, 3)
    assert list(weft.merge(models, rules=[{"match": "head", "use": "drop"}])) == ["w"]


def test_another_layer_s_tensor_is_no_spelling_of_what_is_not_there() -> None:
    models = {"a": {"layers.0.q": W, "layers.1.q": V}, "b": {"layers.0.q": W}}
    rule = {"match": "layers.1.*", "use": "b"}
    with pytest.raises(weft.InputError, match=r"does not have it\n  -> change the rule, .*: `use: a` or `use: drop`"):
        weft.merge(models, rules=[rule])
    models["b"]["layer.1.q"] = V
    with pytest.raises(weft.InputError, match=r"does not have it\n  -> did you mean 'layer\.1\.q'"):
        weft.merge(models, rules=[rule])


def test_a_rule_that_copies_what_is_not_there() -> None:
    models = {"a": {"w": W, "head": V}, "b": {"w": W}}
    with pytest.raises(weft.InputError, match="a rule says use: b, but model 'b' does not have it"):
        weft.merge(models, rules=[{"match": "head", "use": "b"}])


def test_a_rule_that_matches_nothing_is_told() -> None:
    assert warned({"w": W}, {"w": W}, rules=[{"match": "*hed*", "method": "linear"}]) == [
        "rule '*hed*' matched no tensor"
    ]


def test_dropping_everything_is_an_error() -> None:
    assert "the rules drop every tensor" in complaint({"w": W}, rules=[{"match": "*", "use": "drop"}])


def test_a_fisher_of_another_model_is_refused() -> None:
    models, fishers = [{"w": W}, {"w": W}], [{"v": W}, {"w": W.T}]
    text = complaint(*models, method="fisher", fisher=fishers)
    assert "fisher of model 'model_0' has no tensor 'w'" in text
    text = complaint(*models, method="fisher", fisher=[None, fishers[1]])
    assert "tensor 'w' is float32 [3, 2], the models have float32 [2, 3]" in text


def test_a_fisher_file_that_is_not_there(tmp_path: Path) -> None:
    models = [{"w": W, "v": V}, {"w": W, "v": V}]
    text = complaint(*models, method="fisher", fisher=[None, tmp_path / "f.safetensors"])
    assert text.startswith("fisher of model 'model_1': ")
    assert text.count("no such file or folder") == 1, "once, not for every tensor"


@pytest.mark.parametrize("norm", ["much", "nan", "-1", "inf"])
def test_a_norm_in_the_metadata_that_is_none(tmp_path: Path, norm: str) -> None:
    save_file({"w": W}, tmp_path / "f.safetensors", {"norm": norm})
    text = complaint({"w": W}, method="fisher", fisher=tmp_path / "f.safetensors")
    assert f"its metadata say norm = '{norm}'" in text


def test_the_output_has_the_format_of_the_base() -> None:
    half = {"w": W.astype(np.float16)}
    assert weft.merge([{"w": W}, {"w": W}], base=half)["w"].dtype == np.float16
    assert weft.merge([{"w": W}, half])["w"].dtype == np.float32
    assert weft.merge([half, {"w": W}], dtype="float64")["w"].dtype == np.float64


def test_a_copy_changes_its_format_too() -> None:
    merged = weft.merge([{"w": W}, {"w": W}], dtype="float16", rules=[{"match": "w", "use": "model_1"}])
    assert merged["w"].dtype == np.float16
    assert merged["w"].tolist() == W.tolist()


def test_too_little_memory_says_how_much_would_do() -> None:
    assert "is too small" in (text := complaint({"w": W}, {"w": W}, memory="10kB"))
    assert "one worker needs" in text


class TestTied:
    """`lm_head` and the embedding are one tensor and stay one."""

    @staticmethod
    def module(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(7, 3), "head": torch.nn.Linear(3, 7, bias=False)})
        model["head"].weight = model["embed"].weight
        return model

    def test_modules(self) -> None:
        merged = weft.merge([self.module(0), self.module(1)])
        assert merged["embed.weight"] is merged["head.weight"]
        mean = (self.module(0)["embed"].weight + self.module(1)["embed"].weight) / 2
        assert torch.allclose(merged["head.weight"], mean)

    def test_an_alias_that_a_file_left_out(self, tmp_path: Path) -> None:
        """`save_pretrained` keeps one of the names."""
        save_file({"embed.weight": self.module(1)["embed"].weight.detach().numpy()}, tmp_path / "b.safetensors")
        merged = weft.merge([self.module(1), tmp_path / "b.safetensors"], base=self.module(0), method="ties", density=1)
        assert merged["embed.weight"] is merged["head.weight"]
        assert torch.allclose(merged["embed.weight"], self.module(1)["embed"].weight)

    def test_they_count_once_in_a_statistic(self) -> None:
        rng = np.random.default_rng(0)
        base, *tuned = ({"e": rng.standard_normal((9, 4)), "w": rng.standard_normal(30)} for _ in range(4))
        double = [{**t, "head": t["e"]} for t in (base, *tuned)]
        alone = weft.merge(tuned, base=base, method="ties")
        merged = weft.merge(double[1:], base=double[0], method="ties")
        assert np.array_equal(merged["w"], alone["w"])
        copied = [{**t, "head": t["e"].copy()} for t in (base, *tuned)]
        assert np.array_equal(weft.merge(copied[1:], base=copied[0], method="ties")["w"], alone["w"])

    def test_tied_here_and_different_there(self) -> None:
        tied = {"e": W, "head": W}
        text = complaint({"e": W, "head": W + 1}, base=tied, method="ties")
        assert "'head' and 'e' are one tensor in base, but differ in model 'model_0'" in text

    def test_rules_may_not_tear_them_apart(self) -> None:
        tied = {"e": W, "head": W}
        text = complaint(tied, tied, rules=[{"match": "head", "parameters": {"weight": {"model_0": 2}}}])
        assert "tensors e, head are one tensor, but the rules treat them differently" in text

    def test_equal_bytes_under_different_rules_are_two_tensors(self) -> None:
        models = [{"e": W, "head": W.copy()}, {"e": W + 1, "head": W + 1}]
        merged = weft.merge(models, rules=[{"match": "head", "use": "model_1"}])
        assert np.array_equal(merged["e"], W + 0.5)
        assert np.array_equal(merged["head"], W + 1)

    def test_an_alias_may_be_dropped(self) -> None:
        tied = {"e": W, "head": W}
        assert list(weft.merge([tied, tied], rules=[{"match": "head", "use": "drop"}])) == ["e"]


class TestInMemory:
    """What comes in goes out: torch for torch, numpy for numpy, inputs untouched."""

    def test_torch(self) -> None:
        tensors = [
            {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)},
            {"w": torch.tensor([3.0, 4.0], dtype=torch.bfloat16)},
        ]
        merged = weft.merge(tensors)
        assert merged["w"].dtype == torch.bfloat16
        assert merged["w"].tolist() == [2.0, 3.0]
        assert tensors[0]["w"].tolist() == [1.0, 2.0]

    def test_a_view_that_is_not_contiguous(self) -> None:
        square = torch.arange(9.0).reshape(3, 3)
        assert torch.equal(weft.merge([{"w": square.T}, {"w": square.T}])["w"], square.T)
        assert np.array_equal(weft.merge([{"w": W.T}, {"w": W.T}])["w"], W.T)

    def test_parameters_that_require_gradients(self) -> None:
        merged = weft.merge([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        assert not merged["weight"].requires_grad

    def test_names_for_models(self) -> None:
        merged = weft.merge({"x": {"w": W}, "y": {"w": W + 4}}, weight={"y": 3, "default": 1})
        assert np.allclose(merged["w"], W + 3)

    def test_paths_give_torch_tensors(self, tmp_path: Path) -> None:
        save_file({"w": W}, tmp_path / "a.safetensors")
        assert torch.is_tensor(weft.merge([tmp_path / "a.safetensors"])["w"])
        assert np.array_equal(load_file(tmp_path / "a.safetensors")["w"], W)


class TestNotFinite:
    """What is not finite is told by tensor and model, and never becomes part of a merge by accident."""

    SPOILT = np.array([[1, np.nan, 2], [np.inf, 0, -np.inf]], np.float32)

    @pytest.mark.parametrize("method", ["linear", "ties", "task_arithmetic", "fisher"])
    def test_it_is_an_error_by_default(self, method: str) -> None:
        text = complaint({"w": W, "v": V}, {"w": self.SPOILT, "v": V}, base={"w": W, "v": V}, method=method)
        assert text.startswith("tensor 'w' of model 'model_1' holds 3 values that are not finite")
        assert "`use: base`" in text

    @pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
    def test_in_every_format(self, dtype: str) -> None:
        bad = torch.tensor([1.0, float("nan")]).to(getattr(torch, dtype))
        assert "holds 1 value that is not finite" in complaint({"w": bad}, {"w": bad + 1})

    def test_a_fisher_is_examined_too(self) -> None:
        text = complaint({"w": W}, {"w": W + 1}, method="fisher", fisher=[None, {"w": abs(self.SPOILT)}])
        assert "tensor 'w' of fisher of model 'model_1' holds 3 values" in text

    def test_a_warning_on_request(self) -> None:
        models = [{"w": W}, {"w": self.SPOILT}]
        assert warned(*models, on_nonfinite="warn") == [
            "tensor 'w' of model 'model_1' holds values that are not finite: 3"
        ]
        assert warned(*models, on_nonfinite="ignore") == []

    @pytest.mark.parametrize("method", ["ties", "linear"])
    def test_masks_take_the_format_of_the_output(self, method: str, tmp_path: Path) -> None:
        mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
        models = [{"mask": mask.copy(), "w": W + k, "z": V + k} for k in range(3)]
        recipe = {"method": method, "base": models[0], "models": models[1:], "output": {"dtype": "float16"}}
        weft.merge_to(recipe, tmp_path / "out.safetensors")
        merged = load_file(tmp_path / "out.safetensors")
        assert np.array_equal(merged["mask"], mask.astype(np.float16))
        without = [{n: t for n, t in m.items() if n != "mask"} for m in models]
        alone = weft.merge(without[1:], base=without[0], method=method, dtype="float16")
        assert all(np.array_equal(merged[n], alone[n]) for n in alone)

    @pytest.mark.parametrize("method", ["ties", "linear"])
    def test_masks_are_copied(self, method: str) -> None:
        mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
        base, a, b = ({"w": W + k, "mask": mask.copy()} for k in range(3))
        merged = weft.merge([a, b], base=base, method=method)
        assert np.array_equal(merged["mask"], mask)
        without = [{"w": t["w"]} for t in (base, a, b)]
        assert np.array_equal(merged["w"], weft.merge(without[1:], base=without[0], method=method)["w"])


def test_a_variance_is_never_negative() -> None:
    """1 + 1 * ((0.2 - 1) + (0.1 - 1)) = -0.7."""
    base, a, b = ({"bn.running_var": np.array([v, 1.0])} for v in (1.0, 0.2, 0.1))
    options = {"base": base, "method": "task_arithmetic", "scale": 1}
    assert weft.merge([a, b], **options)["bn.running_var"].tolist() == [0.0, 1.0]
    assert warned(a, b, **options) == ["1 running variances would have become negative; they are 0"]


def test_a_model_that_does_not_descend_from_the_base_is_suspected() -> None:
    rng = np.random.default_rng(0)
    base, stranger = ({"w": rng.standard_normal((50, 50))} for _ in range(2))
    child = {"w": base["w"] + 0.1}
    heard = warned(child, stranger, base=base, method="ties")
    assert heard == [
        "model 'model_1' differs from the base by 1.4 times the base's own length: it may not descend from this base"
    ]
    assert warned(child, stranger, base=base, method="linear") == []


def test_weights_in_the_place_of_a_fisher_are_noticed() -> None:
    text = complaint({"w": W}, {"w": W}, method="fisher", fisher=[{"w": W}, {"w": W - 3}])
    assert text.startswith("tensor 'w' of fisher of model 'model_1' holds 3 values that are below zero")


def test_fisher_without_any_is_remarked() -> None:
    assert warned({"w": W}, {"w": W}, method="fisher") == [
        "no model has a Fisher, so this is the weighted mean; give each model its `fisher`"
    ]


def test_a_copy_of_another_shape_is_told() -> None:
    models = [{"w": W, "head": V}, {"w": W, "head": V[:1]}]
    assert warned(*models, rules=[{"match": "head", "use": "model_1"}]) == [
        "tensor 'head' copied from model_1 has shape [1, 3], the base's [2, 3]; the output's config is the base's"
    ]


class TestInputsOfPython:
    """What people pass from Python."""

    def test_a_hugging_face_module(self) -> None:
        """It has a dtype, as tensors do."""
        from transformers import BertConfig, BertModel

        config = BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9
        )
        merged = weft.merge([BertModel(config), BertModel(config)])
        BertModel(config).load_state_dict(merged)

    def test_arrays_as_weights_and_torch_formats(self) -> None:
        merged = weft.merge([{"w": W}, {"w": W + 4}], weight=np.array([3, 1]), dtype=torch.float16)
        assert merged["w"].dtype == np.float16
        assert np.allclose(merged["w"], W + 1)
        assert np.allclose(weft.merge([{"w": W}, {"w": W + 4}], weight=torch.tensor([3.0, 1.0]))["w"], W + 1)

    @pytest.mark.parametrize(
        ("tensor", "says"),
        [(torch.zeros(2, device="meta"), "has no data"), (torch.zeros(2, 2).to_sparse(), "is sparse or quantised")],
    )
    def test_tensors_without_plain_data(self, tensor: torch.Tensor, says: str) -> None:
        assert says in complaint({"w": tensor})

    def test_a_path_in_the_place_of_models(self) -> None:
        with pytest.raises(weft.InputError, match=r"'rec\.yaml' is one path"):
            weft.merge("rec.yaml")

    def test_workers_below_zero(self) -> None:
        assert "workers: -1 is less than 0" in complaint({"w": W}, workers=-1)

    def test_a_memory_without_a_unit(self) -> None:
        assert "did you mean 256MB?" in complaint({"w": W}, memory=256)


class TestMissing:
    """What a model lacks is an error unless a policy was chosen, and then it is told."""

    BASE, A, B = {"w": W, "v": V}, {"w": W + 1, "v": V + 1}, {"w": W + 3}

    def merged(self, policy: str, **options: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        recipe = {"models": [self.A, self.B], "on_missing": policy, **options}
        warnings = weft.plan(recipe).warnings
        heard = [text for text in warnings if "missing" in text]
        base = options.pop("base", None)
        return weft.merge([self.A, self.B], base=base, on_missing=policy, **options), tuple(heard)

    def test_the_policy_is_offered(self) -> None:
        assert "choose a policy with `on_missing:`" in complaint(self.A, self.B)

    def test_the_base_is_copied(self) -> None:
        merged, heard = self.merged("base", base=self.BASE, method="task_arithmetic")
        assert np.array_equal(merged["v"], V)
        assert heard == ("1 tensor(s) missing from model 'model_1', the base's is copied: v",)

    def test_without_a_base_there_is_nothing_to_copy(self) -> None:
        assert "missing from model 'model_1'" in complaint(self.A, self.B, on_missing="base")

    @pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "fisher"])
    def test_the_model_is_skipped(self, method: str) -> None:
        options = {"density": 1} if method == "ties" else {}
        merged, heard = self.merged("skip-model", base=self.BASE, method=method)
        alone = weft.merge([self.A], base=self.BASE, method=method, **options)
        full = weft.merge([self.A, self.B | {"v": V}], base=self.BASE, method=method)
        assert np.allclose(merged["v"], alone["v"] if method != "ties" else full["v"])
        if method != "fisher":  # whose norm is that of what a model has
            assert np.array_equal(merged["w"], full["w"])
        assert heard == ("1 tensor(s) missing from model 'model_1', it is merged without: v",)

    @pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
    def test_without_a_base_there_is_no_task_vector(self, method: str) -> None:
        told = complaint(self.A, self.A, base={"w": W}, method=method, on_missing="skip-model")
        assert "tensor 'v' is in model 'model_0', model 'model_1' but missing from base" in told

    @pytest.mark.parametrize("method", ["linear", "fisher"])
    def test_what_is_left_must_have_a_weight(self, method: str) -> None:
        told = complaint(self.A, self.B, method=method, on_missing="skip-model", weight=[0, 1])
        assert f"tensor 'v' is missing from model 'model_1'; without it, method {method}: " in told
        assert "add a rule with `use:` for this tensor, or choose other weights" in told

    def test_a_fisher_need_not_know_what_its_model_lacks(self) -> None:
        fishers = [{"w": abs(W) + 1, "v": abs(V) + 1}, {"w": abs(W) + 2}]
        options = {"method": "fisher", "fisher": fishers, "favor_target": False}
        merged = weft.merge([self.A, self.B], on_missing="skip-model", **options)
        assert np.allclose(merged["v"], self.A["v"])
        zero = [fishers[0], {**fishers[1], "v": np.zeros_like(V)}]
        full = weft.merge([self.A, {**self.B, "v": V}], **{**options, "fisher": zero, "floor": 0})
        assert np.allclose(merged["w"], full["w"], atol=1e-5)


class Phases(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def phase(self, name: str, total: int) -> None:
        self.names.append(name)


@pytest.mark.parametrize("name", sorted(weft.methods()))
def test_the_first_merge_ever_says_that_it_compiles(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And compiles what it then runs, whatever the method."""
    from weft.engine import executing

    monkeypatch.setattr(executing, "kernels_cached", lambda: 0)
    phases = Phases()
    models = [{"w": W}, {"w": W + 1}][: weft.method(name).models[-1]]
    options = {"gram": [{"w": np.eye(W.shape[-1])}] * 2} if name in ("regmean", "mats") else {}
    weft.merge(models, base={"w": W * 2}, method=name, progress=phases, **options)
    assert [phase.split(",")[0] for phase in phases.names] == ["compiling", "merging"]
