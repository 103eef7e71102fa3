"""The diagonal Fisher information: golden cases, closed forms, real architectures, and what must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weft
from tests.golden_cases import Case, cases
from tests.statistics.single import assert_same, at_labels, exact
from weft import InputError
from weft.statistics.estimating import FisherEstimator
from weft.statistics.likelihoods import (
    CausalLM,
    Classification,
    EncoderWithHead,
    MaskedLM,
    Regression,
    Seq2SeqLM,
    TokenClassification,
)
from weft.statistics.own_likelihood import Custom

GOLDEN = cases("fisher")
BODY = ("emb", "seg", "w1", "b1")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Official(nn.Module):
    """The tiny classifier of the golden cases; its head is no parameter."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        super().__init__()
        own = {name: torch.from_numpy(t.copy()) for name, t in tensors.items()}
        self.emb = nn.Embedding.from_pretrained(own["emb"], freeze=False)
        self.seg = nn.Embedding.from_pretrained(own["seg"], freeze=False)
        self.w1, self.b1 = nn.Parameter(own["w1"]), nn.Parameter(own["b1"])
        self.w2, self.b2 = own["w2"], own["b2"]

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        x = (self.emb(input_ids.long()) + self.seg(token_type_ids.long())).mean(1)
        return torch.tanh(x @ self.w1 + self.b1) @ self.w2 + self.b2


class OfficialInLayers(Official):
    """The same, its hidden layer a `torch.nn.Linear`, so that every part has a formula."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        super().__init__(tensors)
        self.hidden = nn.Linear(*tensors["w1"].shape)
        self.hidden.weight = nn.Parameter(torch.from_numpy(tensors["w1"].T.copy()))
        self.hidden.bias = nn.Parameter(torch.from_numpy(tensors["b1"].copy()))
        del self.w1, self.b1

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        x = (self.emb(input_ids.long()) + self.seg(token_type_ids.long())).mean(1)
        return torch.tanh(self.hidden(x)) @ self.w2 + self.b2


def official(module: nn.Module, data: dict[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    columns = {name: torch.from_numpy(data[name]) for name in ("input_ids", "token_type_ids")}
    count = len(columns["input_ids"])
    batches = [{n: c[i : i + size] for n, c in columns.items()} for i in range(0, count, size)]
    found = weft.fisher(module, batches, labels="exact")
    found |= {"w1": found.pop("hidden.weight").T, "b1": found.pop("hidden.bias")} if "hidden.bias" in found else {}
    return {name.removesuffix(".weight"): t.numpy() for name, t in found.items()}


@pytest.mark.parametrize("kind", [Official, OfficialInLayers])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_official_estimate(kind: type[Official], size: int) -> None:
    case = GOLDEN["fisher/f05"]
    everything = case.inputs("")
    from safetensors.numpy import load_file

    from tests.golden_cases import FOLDER

    everything = load_file(FOLDER / case.entry["inputs"]["file"])
    ours = official(kind(case.inputs("model")), everything, size)
    case.assert_close(ours, case.outputs("fisher"))


@pytest.mark.parametrize("kind", [Official, OfficialInLayers])
def test_the_official_search_from_end_to_end(kind: type[Official]) -> None:
    case = GOLDEN["fisher/f07"]
    fishers = [official(kind(m), case.inputs(f"fisher_data_{i}"), 5) for i, m in enumerate(case.tuned())]
    for i, ours in enumerate(fishers):
        case.assert_close(ours, case.outputs(f"fisher_{i}"))
    bodies = [{name: model[name] for name in BODY} for model in case.tuned()]
    for coefficients, score in zip(case.output("coefficients"), case.output("scores"), strict=True):
        merged = weft.merge(bodies, method="fisher", fisher=fishers, weight=coefficients.tolist())
        assert abs(hits(case, merged) - score) <= 1 / 64 + 1e-6


def hits(case: Case, merged: dict[str, np.ndarray]) -> float:
    data = case.inputs("eval")
    module = Official({**case.tuned()[0], **merged})
    logits = module(torch.from_numpy(data["input_ids"]), torch.from_numpy(data["token_type_ids"]))
    return float((logits.argmax(1).numpy() == data["labels"]).mean())


def test_logistic_regression_in_closed_form() -> None:
    """F of weight (c, j) is the mean of p_c (1 - p_c) x_j^2."""
    module = nn.Linear(4, 3).double()
    x = torch.randn(50, 4).double()
    p = module(x).softmax(1).detach()
    information = p * (1 - p)
    found = weft.fisher(module, [{"input": x[:20]}, {"input": x[20:]}], labels="exact")
    torch.testing.assert_close(found["weight"].double(), information.T @ x**2 / 50, rtol=1e-6, atol=0)
    torch.testing.assert_close(found["bias"].double(), information.mean(0), rtol=1e-6, atol=0)


def test_linear_regression_in_closed_form() -> None:
    """With unit noise F of weight (c, j) is the mean of x_j^2, whatever the weights."""
    module, x = nn.Linear(4, 2).double(), torch.randn(30, 4).double()
    found = weft.fisher(module, [{"input": x}], labels="exact", likelihood=Regression())
    expected = (x**2).mean(0).expand(2, 4)
    torch.testing.assert_close(found["weight"].double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(found["bias"], torch.ones(2))


def test_by_hand() -> None:
    """One weight, one example: p = 1/2 at zero, so 1/2 (x/2)^2 + 1/2 (x/2)^2 = x^2 / 4 for each class."""
    module = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(module.weight)
    found = weft.fisher(module, [{"input": torch.tensor([[6.0]])}])
    torch.testing.assert_close(found["weight"], torch.tensor([[9.0], [9.0]]))


def test_sampled_labels_tend_to_exact_ones() -> None:
    module, x = nn.Linear(3, 4), torch.randn(8, 3)
    drawn = weft.fisher(module, [{"input": x}], labels="sampled", samples=4000)
    whole = weft.fisher(module, [{"input": x}], labels="exact")
    torch.testing.assert_close(drawn["weight"], whole["weight"], rtol=0.1, atol=0.01)


def test_sampled_regressions_tend_to_exact_ones() -> None:
    module, x = nn.Linear(3, 2), torch.randn(8, 3)
    drawn = weft.fisher(module, [{"input": x}], labels="sampled", samples=4000, likelihood=Regression())
    torch.testing.assert_close(drawn["weight"], (x**2).mean(0).expand(2, 3), rtol=0.1, atol=0.01)


def test_a_squared_gradient_of_a_sequence_estimates_the_sum_of_its_tokens_fishers() -> None:
    """docs/fisher.md proves it; here the expectation over all sequences of labels is taken, all of them."""
    module = nn.Embedding(3, 2)
    ids = torch.tensor([[0, 1, 1]])
    logs = module(ids)[0].log_softmax(-1)
    sequences = [(a, b, c) for a in range(2) for b in range(2) for c in range(2)]
    expected = torch.zeros(3, 2)
    for labels in sequences:
        log = sum(logs[position, label] for position, label in enumerate(labels))
        (gradient,) = torch.autograd.grad(log, module.weight, retain_graph=True)
        expected += float(log.detach().exp()) * gradient**2
    found = weft.fisher(module, [{"input": ids}], labels="exact", likelihood=TokenClassification())
    torch.testing.assert_close(found["weight"], expected)


SMALL = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def text() -> dict[str, Tensor]:
    ids = torch.randint(3, 100, (5, 8))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[3, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def next_tokens(module: Any, batch: dict[str, Tensor]) -> Tensor:
    length = int(batch["attention_mask"].sum())
    ids = batch["input_ids"][:, :length]
    logs = module(input_ids=ids).logits[0].log_softmax(-1)
    return sum(logs[t, ids[0, t + 1]] for t in range(length - 1))


def target_tokens(module: Any, batch: dict[str, Tensor]) -> Tensor:
    logs = module(**batch).logits[0].log_softmax(-1)
    return sum(logs[t, label] for t, label in enumerate(batch["labels"][0].tolist()))


def model(name: str) -> Any:
    import transformers as tr

    torch.manual_seed(0)
    return {
        "bert": lambda: tr.BertForSequenceClassification(tr.BertConfig(**SMALL, num_labels=3)),
        "gpt2": lambda: tr.GPT2LMHeadModel(
            tr.GPT2Config(vocab_size=100, n_embd=16, n_layer=2, n_head=2, n_positions=32, **TOKENS)
        ),
        "llama": lambda: tr.LlamaForCausalLM(tr.LlamaConfig(**SMALL, num_key_value_heads=1, **TOKENS)),
        "gemma3": lambda: tr.Gemma3ForCausalLM(
            tr.Gemma3TextConfig(**SMALL, num_key_value_heads=1, head_dim=8, **TOKENS)
        ),
        "t5": lambda: tr.T5ForConditionalGeneration(
            tr.T5Config(
                vocab_size=100, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
            )
        ),
        "vit": lambda: tr.ViTForImageClassification(
            tr.ViTConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8,
                patch_size=4, num_labels=3,
            )
        ),
    }[name]().double().eval()  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_classifiers_of_transformers(name: str) -> None:
    module = model(name)
    batch = text() if name == "bert" else {"pixel_values": torch.randn(4, 3, 8, 8).double()}
    expected = exact(module, batch, lambda one: module(**one).logits)
    estimator = FisherEstimator(module, Classification())
    estimator.update(batch, 0)
    assert_same(estimator.means(), expected)
    assert "one at a time" not in " ".join(estimator.remarks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_language_models_of_transformers(name: str) -> None:
    """Padding changes nothing: the reference has none."""
    module, batch = model(name), text()
    expected = at_labels(module, batch, lambda one: next_tokens(module, one))
    estimator = FisherEstimator(module, CausalLM(), "observed")
    estimator.update(batch, 0)
    assert_same(estimator.means(), expected)
    assert "one at a time" not in " ".join(estimator.remarks)


@pytest.mark.slow
def test_an_encoder_decoder_of_transformers() -> None:
    module, batch = model("t5"), {**text(), "labels": torch.randint(3, 100, (5, 6))}
    expected = at_labels(module, batch, lambda one: target_tokens(module, one))
    estimator = FisherEstimator(module, Seq2SeqLM(), "observed")
    estimator.update(batch, 0)
    assert_same(estimator.means(), expected)
    assert "one at a time" not in " ".join(estimator.remarks)
    assert not any("compute_bias" in part.__dict__ for part in module.modules())


@pytest.mark.slow
def test_masked_tokens_and_a_bias_that_the_head_keeps() -> None:
    import transformers as tr

    module, batch = tr.BertForMaskedLM(tr.BertConfig(**SMALL)).double().eval(), text()
    batch["labels"] = torch.where(torch.rand(5, 8) < 0.5, batch["input_ids"], -100)
    batch["labels"][0, 0] = 5

    def log(one: dict[str, Tensor]) -> Tensor:
        logs = module(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits[0].log_softmax(-1)
        known = (one["labels"][0] != -100) & one["attention_mask"][0].bool()
        return logs[known, one["labels"][0, known]].sum()

    expected = at_labels(module, batch, log)
    estimator = FisherEstimator(module, MaskedLM(), "observed")
    estimator.update(batch, 0)
    assert_same(estimator.means(), expected)
    assert estimator.remarks == ()


@pytest.mark.slow
def test_an_encoder_with_a_head_of_ours() -> None:
    import transformers as tr

    module, head, batch = tr.BertModel(tr.BertConfig(**SMALL)).double().eval(), torch.randn(2, 16).double(), text()

    def logits(one: dict[str, Tensor]) -> Tensor:
        length = int(one["attention_mask"].sum())
        return module(input_ids=one["input_ids"][:, :length]).last_hidden_state.mean(1) @ head.T

    estimator = FisherEstimator(module, EncoderWithHead(weight=head))
    estimator.update(batch, 0)
    assert_same(estimator.means(), exact(module, batch, logits))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 40))


def test_the_size_of_batches_changes_nothing_but_rounding() -> None:
    x = torch.randn(12, 4)
    for labels in ("sampled", "exact"):
        whole, *others = (
            weft.fisher(network(), [{"input": part} for part in x.split(size)], labels=labels, samples=2, seed=5)
            for size in (12, 1, 5, 7)
        )
        for other in others:
            assert_same(other, whole, rtol=1e-4)


def test_going_on_from_saved_sums_gives_the_same_bits() -> None:
    batches = [{"input": x} for x in torch.randn(12, 4).split(3)]
    whole = FisherEstimator(network(), Classification(), "sampled", seed=3)
    half = FisherEstimator(network(), Classification(), "sampled", seed=3)
    for i, batch in enumerate(batches):
        whole.update(batch, 3 * i)
        if i < 2:
            half.update(batch, 3 * i)
    rest = FisherEstimator(network(), Classification(), "sampled", seed=3)
    rest.restore({name: t.clone() for name, t in half.sums().items()}, half.examples, half.tokens)
    for i in (2, 3):
        rest.update(batches[i], 3 * i)
    assert (rest.examples, rest.tokens) == (12, 12)
    assert all(t.dtype == torch.float64 for t in rest.sums().values())
    for name, total in whole.means().items():
        assert torch.equal(rest.means()[name], total)


def test_the_model_is_left_as_it_was() -> None:
    module = network().train()
    module[0].weight.requires_grad_(False)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    found = weft.fisher(module, [{"input": torch.randn(6, 4)}], labels="sampled")
    assert "0.weight" not in found
    assert module.training
    assert module[2].training
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_the_model_is_left_as_it_was_by_a_failure() -> None:
    module = network().train()
    with pytest.raises(InputError):
        weft.fisher(module, [{"input": torch.full((6, 4), float("nan"))}], labels="sampled")
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


def test_copies_of_one_example_prove_nothing_and_are_computed_one_by_one() -> None:
    x = torch.randn(1, 4)
    estimator = FisherEstimator(network(), Classification(), "sampled")
    estimator.update({"input": x.repeat(4, 1)}, 0)
    assert estimator._plan is None
    estimator.update({"input": torch.randn(4, 4)}, 4)
    assert estimator._plan is not None


class Moody(nn.Module):
    """Calls its layer twice for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        x = torch.tanh(self.layer(input))
        return self.head((self.layer(x) if input.shape[1] > 2 else x).mean(1))


def test_a_model_that_goes_another_way_is_looked_at_again() -> None:
    module = Moody().double()
    estimator = FisherEstimator(module, Classification())
    short, long = torch.randn(3, 2, 4).double(), torch.randn(3, 5, 4).double()
    for i, batch in enumerate((short, long, long)):
        estimator.update({"input": batch}, 3 * i)
    expected = [exact(module, {"input": batch}, lambda one: module(**one)) for batch in (short, long, long)]
    assert_same(estimator.means(), {name: sum(e[name] for e in expected) / 3 for name in expected[0]})


def test_half_precision_is_squared_in_single() -> None:
    module = network().bfloat16()
    x = torch.randn(6, 4).bfloat16()
    estimator = FisherEstimator(module, Classification(), "sampled")
    estimator.update({"input": x}, 0)
    assert estimator.remarks == ()
    same = FisherEstimator(network().bfloat16().float(), Classification(), "sampled")
    same.update({"input": x.float()}, 0)
    for name, theirs in same.means().items():
        ours = estimator.means()[name]
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) < 0.1 * float(theirs.max())


def test_tokens_are_counted_without_padding() -> None:
    module = nn.Embedding(100, 3)
    estimator = FisherEstimator(module, Custom(lambda m, b, y: m(b["input_ids"]).sum((1, 2))), "observed")
    estimator.update(text(), 0)
    assert (estimator.examples, estimator.tokens) == (5, 8 + 5 + 8 + 2 + 8)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: weft.fisher(network(), []), "no examples were seen"),
        (lambda: weft.fisher(network(), [{"input": torch.zeros(0, 4)}]), "a batch has no examples"),
        (lambda: weft.fisher(network(), [{}]), "a batch has no columns"),
        (
            lambda: weft.fisher(network(), [{"input": torch.ones(3, 4), "labels": torch.ones(2)}]),
            "input has 3, labels has 2",
        ),
        (lambda: weft.fisher(network().requires_grad_(False), []), "the model has no parameters to look at"),
        (lambda: weft.fisher(network(), [], labels="true"), "labels: there is no 'true'"),
        (lambda: weft.fisher(network(), [{"input": torch.ones(2, 4)}], labels="observed"), "no column 'labels'"),
        (
            lambda: weft.fisher(
                network(), [{"input": torch.ones(2, 4), "labels": torch.tensor([0, 40])}], labels="observed"
            ),
            "example 1: label 40 with 40 classes",
        ),
    ],
)
def test_refusals(make: Any, text: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert text in str(error.value)


def test_a_gradient_that_is_nan_is_told_with_the_parameter() -> None:
    def log(module: Any, batch: Any, labels: Any) -> Tensor:
        return (module(batch["x"]).sum(1) * 0).sqrt()  # finite, with an infinite slope

    with pytest.raises(InputError, match="weight, bias: NaN or infinity in examples 0 to 2"):
        weft.fisher(nn.Linear(2, 2), [{"x": torch.randn(3, 2)}], labels="observed", likelihood=Custom(log))


def test_sums_of_another_model_are_refused() -> None:
    estimator = FisherEstimator(nn.Linear(2, 3), Classification())
    with pytest.raises(InputError, match="saved sums and the model differ in bias"):
        estimator.restore({"weight": torch.zeros(3, 2)}, 1, 1)
    with pytest.raises(InputError, match=r"weight: the saved sum has shape \[2, 2\], the model's \[3, 2\]"):
        estimator.restore({"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, 1, 1)
