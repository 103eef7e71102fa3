"""Models that do not fit together, and what stands beside them and does not fit either."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.mistakes.planting import (
    Mistake,
    Plant,
    Tensors,
    adapter,
    bytes_in,
    edit,
    instead,
    json_in,
    nothing,
    pickled,
    put,
    removed,
    renamed,
    saved,
    tensors,
    together,
    without,
)

W = np.ones((3, 3), np.float32)
FLOATS = {name: t for name, t in tensors(0).items() if t.dtype == np.float32}


def misfit(name: str, plant: Plant, *says: str, remedy: str, **recipe: Any) -> Mistake:
    return Mistake(name, says, remedy, recipe, plant)


def spoilt(name: str, plant: Plant, *says: str, remedy: str, **recipe: Any) -> Mistake:
    """Something that only shows when weights are read."""
    return Mistake(name, says, remedy, recipe, plant, known_early=False)


def _expert(name: str) -> str:
    return name.replace("layers.", "layers.0.mlp.experts.")


def _one_by_one(module: str) -> Tensors:
    """Two layers of two experts as Mixtral's files have them."""
    shapes = {"w1": (2, 3), "w2": (3, 2), "w3": (2, 3)}
    return {
        f"layers__{layer}__{module}__experts__{expert}__{name}__weight": np.ones(shape, np.float32)
        for layer in range(2)
        for expert in range(2)
        for name, shape in shapes.items()
    }


def _stacked(module: str) -> Tensors:
    """The same as a loaded model has them."""
    shapes = {"gate_up_proj": (2, 4, 3), "down_proj": (2, 3, 2)}
    return {
        f"layers__{layer}__{module}__experts__{name}": np.ones(shape, np.float32)
        for layer in range(2)
        for name, shape in shapes.items()
    }


TENSORS = (
    misfit("a tensor too few", without("b", "layers.1.weight"),
           "tensor 'layers.1.weight' is in base, model 'a' but missing from model 'b' (", remedy="or `use: drop`"),
    misfit("a tensor too few in the base", without("base", "head"),
           "tensor 'head' is in model 'a', model 'b' but missing from base", remedy="`use: a`", method="ties"),
    misfit("a tensor too many", put("b", value_head=W),
           "tensor 'value_head' is in model 'b' but missing from model 'a' (a)", remedy="`use: b` or `use: drop`"),
    misfit("a misspelt tensor", renamed("b", lambda name: name.replace("head", "heads")),
           "tensor 'head' is in base, model 'a' but missing from model 'b'", remedy="did you mean 'heads'?"),
    misfit("two shapes", put("b", head=np.ones((7, 3), np.float32)),
           "tensor 'head' has shape [5, 3] in base but [7, 3] in model 'b'", "base/model.safetensors",
           "b/model.safetensors", remedy="add a rule with `use:` for this tensor"),
    misfit("a matrix on its side", edit("b", lambda held: held.update(embed=held["embed"].T)),
           "tensor 'embed' has shape [5, 3] in base but [3, 5] in model 'b'",
           remedy="merge models of one architecture"),
    misfit("two tokens more, as the config says",
           together(put("b", embed=np.ones((7, 3), np.float32), head=np.ones((7, 3), np.float32)),
                    *(json_in(f"{m}/config.json", {"vocab_size": 7 if m == "b" else 5}) for m in ("base", "a", "b"))),
           "error: the vocabularies differ in their numbers of rows, in 'embed', 'head': base has 5, "
           "model 'a' (a) has 5, model 'b' (b) has 7; ",
           "the tokens of model 'b' cannot be compared: no vocabulary can be read of base",
           remedy="choose `vocabulary: base` (the base's tokens and rows), `pad`"),
    misfit("a vocabulary with two tokens more",
           put("b", embed=np.ones((7, 3), np.float32), head=np.ones((7, 3), np.float32)),
           "tensor 'embed'", "tensor 'head'", "[5, 3]", "[7, 3]", "model 'b'", remedy="use:"),
    misfit("fewer layers", edit("b", lambda held: held.pop("layers.1.weight")),
           "model 'b' has 1 of layers.*, base has 2", remedy="merge models of one depth"),
    misfit("another architecture", renamed("b", lambda name: f"encoder.{name}.kernel"),
           "model 'b' and base share no tensor name; one has 'encoder.", remedy="map the names with `rename`"),
    misfit("experts in one tensor here and one by one there",
           together(*(renamed(m, _expert) for m in ("base", "a")),
                    edit("b", lambda held: [held.pop("layers.0.weight"), held.pop("layers.1.weight")]),
                    put("b", layers__0__mlp__experts__weight=np.ones((2, 3, 3), np.float32))),
           "error: model 'b' holds the experts of a layer in one tensor, base one by one: "
           "'layers.0.mlp.experts.weight' is float32 [2, 3, 3] in model 'b', "
           "'layers.0.mlp.experts.0.weight' and 1 like it are float32 [3, 3] in base\n",
           remedy="load both with one version of transformers and save them with save_pretrained, which writes one "
           "layout; `rename` cannot stack tensors\n"),
    misfit("experts in one tensor, under a policy for what is missing",
           together(*(put(m, **_one_by_one("block_sparse_moe")) for m in ("base", "a")), put("b", **_stacked("mlp"))),
           "error: model 'b' holds the experts of a layer in one tensor, base one by one: "
           "'layers.0.mlp.experts.down_proj' is float32 [2, 3, 2] in model 'b', "
           "'layers.0.block_sparse_moe.experts.0.w1.weight' and 1 like it are float32 [2, 3] in base, "
           "and so in 1 more layers\n",
           remedy="`rename` cannot stack tensors", on_missing="skip-model"),
    misfit("a model without tensors", instead("b", saved("b/model.safetensors", {})),
           "model 'b' (", "holds no tensors", remedy="name the model that was meant"),
    misfit("integers for weights", put("b", head=np.ones((5, 3), np.int32)),
           "tensor 'head' is float32 in base but int32 in model 'b'", "b/model.safetensors",
           remedy="save both in one format, or add a rule with `use:`"),
    misfit("counters that differ", put("b", bn__num_batches_tracked=np.array(8)),
           "tensor 'bn.num_batches_tracked' (int64 []) is not a float and differs between base", "model 'b'",
           remedy="add a rule with `use: base`"),
    misfit("position ids that differ",
           together(*(put(m, position_ids=np.arange(4)[None] + (m == "b")) for m in ("base", "a", "b"))),
           "tensor 'position_ids' (int64 [1, 4]) is not a float and differs", remedy="add a rule with `use: base`"),
    misfit("masks in two formats",
           together(*(put(m, mask=np.ones(4, np.uint8 if m == "b" else np.bool_)) for m in ("base", "a", "b"))),
           "tensor 'mask' is bool in base but uint8 in model 'b'", remedy="save both in one format"),
    misfit("tied here and different there",
           together(removed("a/model.safetensors"), pickled("a/pytorch_model.bin", lambda: _tied())),
           "tensors 'head' and 'embed' are one tensor in model 'a', but differ in base (", "base/model.safetensors",
           remedy="tie them there too, or pass untied copies everywhere"),
    misfit("tied tensors under different rules",
           together(*(together(removed(f"{m}/model.safetensors"), pickled(f"{m}/pytorch_model.bin", lambda: _tied()))
                      for m in ("base", "a", "b"))),
           "tensors embed, head are one tensor, but the rules treat them differently",
           remedy="write one rule that matches all of them", rules=[{"match": "head", "use": "a"}]),
    misfit("a copy from a model that calls it otherwise", renamed("b", lambda name: name.replace("head", "heads")),
           "tensor 'head': a rule says use: b, but b does not have it", remedy="did you mean 'heads'?",
           rules=[{"match": "head", "use": "b"}]),
    misfit("a copy from a model that has nothing like it", put("a", value_head=W),
           "tensor 'value_head': a rule says use: b, but b does not have it",
           remedy="change the rule, or write one for this tensor before it: `use: a` or `use: drop`\n",
           rules=[{"match": "value_*", "use": "b"}]),
    spoilt("values that are not numbers", edit("b", lambda held: held["head"].fill(np.nan)),
           "tensor 'head' of ", "b/model.safetensors holds 15 values that are not finite",
           remedy="copy the tensor from another with a rule"),
    spoilt("infinity in two models", together(*(edit(m, lambda held: held["embed"][:1].fill(np.inf)) for m in "ab")),
           "a/model.safetensors holds 3 values that are not finite", "b/model.safetensors holds 3 values",
           remedy="on_nonfinite: warn", method="ties"),
)  # fmt: skip


def _tied() -> dict[str, torch.Tensor]:
    state = {name: torch.from_numpy(t) for name, t in tensors(0).items()}
    return {**state, "head": state["embed"]}


def fisher(
    name: str, plant: Plant, *says: str, remedy: str, early: bool = True, of_b: Any = "f.safetensors"
) -> Mistake:
    recipe = {"method": "fisher", "base": None, "models": ["a", {"path": "b", "fisher": of_b}]}
    return Mistake(name, says, remedy, recipe, plant, known_early=early)


def _fisher(changes: Tensors | None = None, **metadata: str) -> Plant:
    return saved("f.safetensors", {**{n: t * t for n, t in FLOATS.items()}, **(changes or {})}, **metadata)


def lora(name: str, plant: Plant, *says: str, remedy: str) -> Mistake:
    return Mistake(name, says, remedy, {"models": ["a", {"path": "base", "adapter": "lora", "name": "b"}]}, plant)


def _factors(module: str = "layers.0", a: tuple[int, int] = (2, 3), b: tuple[int, int] = (3, 2)) -> Tensors:
    name = f"base_model.model.{module}.lora"
    return {f"{name}_A.weight": np.ones(a, np.float32), f"{name}_B.weight": np.ones(b, np.float32)}


BESIDE = (
    fisher("a Fisher that is not there", nothing, "fisher of model 'b': ", "f.safetensors: no such file or folder",
           remedy="holds: "),
    fisher("a Fisher of another model", saved("f.safetensors", {"u": W}), "fisher of model 'b' (",
           "has no tensor 'embed'", remedy="measure it for this model"),
    fisher("a Fisher of another shape", _fisher({"head": np.ones((7, 3), np.float32)}),
           "tensor 'head' is float32 [7, 3], the models have float32 [5, 3]", remedy="it belongs to another model"),
    fisher("a Fisher of integers", _fisher({"head": np.ones((5, 3), np.int64)}),
           "tensor 'head' is int64 [5, 3], the models have float32 [5, 3]", remedy="it belongs to another model"),
    fisher("weights in the place of a Fisher", saved("f.safetensors", FLOATS), "f.safetensors holds",
           "values that are below zero", remedy="a Fisher is a mean of squares", early=False),
    fisher("a Fisher that overflowed", _fisher({"head": np.full((5, 3), np.inf, np.float32)}),
           "tensor 'head' of ", "f.safetensors holds 15 values that are not finite", remedy="mend", early=False),
    fisher("a norm that is none", _fisher(norm="nan"), "its metadata say norm = 'nan'",
           remedy="measure it again, or remove the entry"),
    fisher("a number in the place of a Fisher", nothing, "fisher of model 'b'", "cannot read tensors from a int",
           remedy="pass a path", of_b=3),
    Mistake("signs that are not there", ("signs.safetensors: no such file or folder",), "holds: ",
            {"method": "ties", "parameters": {"elect": "signs.safetensors"}}),
    lora("an adapter that is not there", nothing, "lora: no such folder",
         remedy="name the folder that peft's save_pretrained wrote"),
    lora("a model in the place of an adapter", saved("lora/model.safetensors", FLOATS),
         "lora: holds no adapter_config.json; it holds: model.safetensors", remedy="peft's save_pretrained"),
    lora("an adapter without weights", together(adapter(), removed("lora/adapter_model.safetensors")),
         "lora: holds no adapter_model.safetensors", remedy="download the adapter's weights"),
    lora("an adapter's configuration that is no JSON", together(adapter(), bytes_in("lora/adapter_config.json", b"{")),
         "lora/adapter_config.json: cannot be read as JSON", remedy="download the adapter again"),
    lora("an adapter that does not say its kind", together(adapter(), json_in("lora/adapter_config.json", {"r": 2})),
         "does not say its peft_type", remedy="name the folder of an adapter that peft saved"),
    lora("an adapter that is not LoRA", adapter(peft_type="LOHA"), "is a LOHA adapter; only LORA can be added",
         remedy="merge_and_unload()"),
    lora("an adapter of rank none", adapter(r=0), "adapter_config.json: r is 0, not a positive whole number",
         remedy="download the adapter again"),
    lora("an adapter of another rank", adapter(r=8), "of rank 2, but the configuration gives", "'layers.0' rank 8",
         remedy="adapter"),
    lora("an adapter of another model", adapter(_factors("blocks.0.attn")), "blocks.0.attn.weight'",
         "which the base (", remedy="base"),
    lora("an adapter for a wider model", adapter(_factors(a=(2, 4))), "do not fit 'layers.0.weight'", "[3, 3]",
         remedy="base"),
    lora("half an adapter", adapter({n: t for n, t in _factors().items() if "lora_A" in n}),
         "has no factor B beside it", remedy="download"),
    lora("an adapter of a kind that cannot be added", adapter(layer_replication=[[0, 2]]), "layer_replication",
         remedy="merge_and_unload()"),
)  # fmt: skip

ALL = (*TENSORS, *BESIDE)
