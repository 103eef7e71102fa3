"""Gram matrices: golden cases of two official codes, a loop, and which tokens count."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import weft
from tests.golden_cases import FOLDER
from tests.statistics.test_fisher import SMALL, text
from weft import InputError
from weft.statistics.estimating import FisherEstimator, GramEstimator
from weft.statistics.families import likelihood_of
from weft.statistics.likelihoods import CausalLM, Classification
from weft.statistics.own_likelihood import Custom

CASES = {case["id"]: case for case in json.loads((FOLDER / "gram" / "manifest.json").read_text())["cases"]}
ENCODER = "transformer.encoder.block.0.k"
CROSS = "transformer.decoder.block.0.EncDecAttention.k"
DECODER = "transformer.decoder.block.0.SelfAttention.q"


def test_regmean_of_merge_lm() -> None:
    case = CASES["regmean_gram"]
    data = load_file(FOLDER / case["file"])
    found = weft.gram(nn.Linear(6, 2), [{"input": data[f"x{i}"]} for i in range(3)])
    torch.testing.assert_close(found["weight"], data["gram"], **case["tolerance"])


def module_at(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *folders, last = path.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = getattr(root, folder)
    root.add_module(last, leaf)


class Recorded(nn.Module):
    """Layers that see the activations on record; the decoder's are as many as its mask has."""

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=True)
        for path, (outputs, inputs) in shapes.items():
            module_at(self, path, nn.Linear(inputs, outputs, bias=False))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        length = batch["decoder_attention_mask"].shape[1]
        seen = {path: batch[path][:, :length] if path == DECODER else batch[path] for path in (ENCODER, CROSS, DECODER)}
        return {path: self.get_submodule(path)(x) for path, x in seen.items()}


def recorded(module: Any, batch: Any, labels: Any) -> Tensor:
    """A number whose gradients are those on record."""
    outputs = module(batch)
    return sum((out * batch[f"grad/{path}"][:, : out.shape[1]]).sum((1, 2)) for path, out in outputs.items())


@pytest.mark.parametrize("together", [False, True])
def test_mats_gram_matrices_of_inputs_and_gradients(together: bool) -> None:
    case = CASES["mats/m17"]
    data, theirs = (load_file(FOLDER / case[side]["file"]) for side in ("inputs", "outputs"))
    shapes = {
        path: (theirs[f"output_grad_gram/{path}"].shape[0], theirs[f"input_gram/{path}"].shape[0])
        for path in (ENCODER, CROSS, DECODER)
    }
    batches = []
    for i in range(5):
        batch = {path: data[f"ex_{i}/act/{path}"] for path in shapes}
        batch |= {f"grad/{path}": data[f"ex_{i}/grad/{path}"] for path in shapes}
        batch["attention_mask"] = data[f"ex_{i}/input_mask"]
        batch["decoder_attention_mask"] = data[f"ex_{i}/target_mask"]
        batches.append(batch)
    if together:
        batches = [{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}]
    found = weft.gram(Recorded(shapes), batches, gradients=True, likelihood=Custom(recorded), labels="observed")
    assert len(found) == 6
    for path in shapes:
        for ours, kind in (
            (found[f"{path}.weight"], "input_gram"),
            (found[f"{path}.weight@gradients"], "output_grad_gram"),
        ):
            torch.testing.assert_close(ours, theirs[f"{kind}/{path}"], **case["comparison"])


class Vector(nn.Module):
    def __init__(self, vector: Tensor) -> None:
        super().__init__()
        self.ia3_vector = nn.Parameter(vector)


def test_mats_diagonal_fisher() -> None:
    case = CASES["mats/m17"]
    data, theirs = (load_file(FOLDER / case[side]["file"]) for side in ("inputs", "outputs"))
    batch = {
        "h": torch.stack([data[f"ex_{i}/ia3_h"] for i in range(5)]),
        "y": torch.cat([data[f"ex_{i}/ia3_y"] for i in range(5)]),
    }

    def log(module: Any, batch: Any, labels: Any) -> Tensor:
        return -0.5 * ((module.ia3_vector * batch["h"]).sum(1) - batch["y"]) ** 2

    estimator = FisherEstimator(Vector(data["ia3_vector"]), Custom(log), "observed")
    estimator.update(batch, 0)
    torch.testing.assert_close(estimator.means()["ia3_vector"], theirs["diag_fisher/ia3_vector"], **case["comparison"])
    assert "one at a time" in estimator.remarks[0]


def test_padding_counts_only_if_asked() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer, self.head = nn.Embedding(100, 4), nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(torch.tanh(self.layer(self.embed(input_ids))).mean(1))

    module, batch = Model(), text()
    x = module.embed(batch["input_ids"]).detach()
    real = x[batch["attention_mask"].bool()]
    torch.testing.assert_close(weft.gram(module, [batch])["layer.weight"], real.T @ real / len(real))
    every = x.reshape(-1, 4)
    torch.testing.assert_close(weft.gram(module, [batch], padding=True)["layer.weight"], every.T @ every / len(every))
    pooled = torch.tanh(module.layer(x)).mean(1).detach()
    torch.testing.assert_close(weft.gram(module, [batch])["head.weight"], pooled.T @ pooled / 5)


def test_k_fac_of_logistic_regression_is_the_covariance_of_its_labels() -> None:
    module, x = nn.Linear(3, 4), torch.randn(6, 3)
    p = module(x).softmax(1).detach()
    expected = sum(torch.diag(row) - row[:, None] * row for row in p) / 6
    found = weft.gram(module, [{"input": x[:4]}, {"input": x[4:]}], gradients=True, labels="exact")
    torch.testing.assert_close(found["weight@gradients"], expected)


def test_matrices_of_gpt_2_lie_the_other_way_and_its_embedding_has_none() -> None:
    import transformers as tr

    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    module = tr.GPT2LMHeadModel(tr.GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2, n_positions=32, **ends))
    estimator = GramEstimator(module, True, CausalLM())
    estimator.update(text(), 0)
    found = estimator.means()
    assert found["transformer.h.0.attn.c_attn.weight"].shape == (16, 16)
    assert found["transformer.h.0.attn.c_attn.weight@gradients"].shape == (48, 48)
    assert found["transformer.h.0.mlp.c_proj.weight"].shape == (64, 64)
    assert "transformer.wte.weight" not in found
    assert estimator.remarks[0].startswith("no Gram matrix for transformer.wte.weight: it is an embedding, too")


@pytest.mark.slow
def test_layers_of_a_decoder_follow_its_tokens() -> None:
    import transformers as tr

    torch.manual_seed(0)
    config = tr.T5Config(
        vocab_size=100, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    module, batch = tr.T5ForConditionalGeneration(config), text()
    batch["labels"] = torch.randint(3, 100, (5, 8))  # as long as the source: lengths alone would not tell
    batch["labels"][2, 4:] = -100
    batch["labels"][4, 1:] = -100
    estimator = GramEstimator(module, likelihood=likelihood_of(module))
    estimator.update(batch, 0)
    sums = estimator.sums()
    source, target = int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())
    assert (source, target) == (31, 8 + 8 + 4 + 8 + 1)
    attention = "decoder.block.0.layer.{}.{}.weight@rows"
    assert int(sums["encoder.block.0.layer.0.SelfAttention.q.weight@rows"]) == source
    assert int(sums[attention.format(0, "SelfAttention.k")]) == target
    assert int(sums[attention.format(1, "EncDecAttention.q")]) == target
    assert int(sums[attention.format(1, "EncDecAttention.k")]) == source
    assert int(sums[attention.format(2, "DenseReluDense.wi")]) == target


def test_going_on_from_saved_sums_gives_the_same_bits() -> None:
    batches = [{"input": x} for x in torch.randn(12, 3).split(4)]
    module = nn.Linear(3, 2)
    whole, half, rest = (GramEstimator(module, True, Classification(), "sampled", seed=2) for _ in range(3))
    for i, batch in enumerate(batches):
        whole.update(batch, 4 * i)
        if i == 0:
            half.update(batch, 0)
            rest.restore(half.sums(), half.examples, half.tokens)
        else:
            rest.update(batch, 4 * i)
    assert whole.means().keys() == {"weight", "weight@gradients"}
    assert all(torch.equal(whole.means()[name], t) for name, t in rest.means().items())


def test_refusals() -> None:
    with pytest.raises(InputError, match="no linear layers"):
        weft.gram(nn.LayerNorm(3), [])
    with pytest.raises(InputError, match="no examples were seen"):
        weft.gram(nn.Linear(3, 3), [])
    with pytest.raises(InputError, match="gradients are those of a likelihood"):
        GramEstimator(nn.Linear(3, 3), gradients=True)
    with pytest.raises(InputError, match="weight: NaN or infinity in examples 0 to 1"):
        weft.gram(nn.Linear(3, 3), [{"input": torch.full((2, 3), float("nan"))}])


@pytest.mark.slow
def test_a_bert_against_a_loop() -> None:
    import transformers as tr

    torch.manual_seed(0)
    module, batch = tr.BertForSequenceClassification(tr.BertConfig(**SMALL, num_labels=3)).double().eval(), text()
    layer = module.bert.encoder.layer[1].intermediate.dense
    inputs, gradients = torch.zeros(16, 16).double(), torch.zeros(24, 24).double()
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda m, a, out: seen.extend((a[0], out)))
    for i in range(5):
        length = int(batch["attention_mask"][i].sum())
        seen.clear()
        logs = module(input_ids=batch["input_ids"][i : i + 1, :length]).logits[0].log_softmax(-1)
        inputs += seen[0][0].detach().T @ seen[0][0].detach() / 31
        for log in logs:
            (g,) = torch.autograd.grad(log, seen[1], retain_graph=True)
            gradients += float(log.detach().exp()) * g[0].T @ g[0] / 31
    found = weft.gram(module, [batch], gradients=True, labels="exact")
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    torch.testing.assert_close(found[name], inputs.float())
    torch.testing.assert_close(found[name + "@gradients"], gradients.float())
