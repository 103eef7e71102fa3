"""What changes a model's loss: its gradient, and interventions; closed forms, float64 loops, how the two agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weft
from tests.statistics.single import Batch
from weft import InputError
from weft.statistics.likelihoods import CausalLM, EncoderWithHead, Regression, TokenClassification
from weft.statistics.own_likelihood import Custom


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Stack(nn.Module):
    """Two layers, a tied weight, dropout, and a parameter that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.layers[1].weight = self.layers[0].weight
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(torch.tanh(layer(x)))
        return self.head(x)


def stack(seed: int = 0) -> Stack:
    torch.manual_seed(seed)
    return Stack().double()


def moved(base: Stack, step: float, seed: int = 5) -> Stack:
    """A fine-tune at a distance."""
    tuned, random = stack(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for (_, own), (_, new) in zip(base.named_parameters(), tuned.named_parameters(), strict=True):
            new.copy_(own + step * torch.randn(own.shape, generator=random, dtype=own.dtype))
    return tuned


def examples(count: int = 11) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 4).double(), "labels": torch.randint(0, 3, (count,))}


def loss(module: nn.Module, batch: Batch) -> Tensor:
    """The mean over examples, in training's own words."""
    return nn.functional.cross_entropy(module.eval()(batch["x"]), batch["labels"])


def split(batch: Batch, *sizes: int) -> list[Batch]:
    parts = {name: column.split(list(sizes)) for name, column in batch.items()}
    return [{name: column[k] for name, column in parts.items()} for k in range(len(sizes))]


def test_a_gradient_is_that_of_a_loop_over_single_examples() -> None:
    module, batch = stack(), examples()
    expected = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for one in split(batch, *[1] * 11):
        module.zero_grad()
        loss(module, one).backward()
        for name, parameter in module.named_parameters():
            expected[name] += torch.zeros_like(parameter) if parameter.grad is None else parameter.grad / 11
    module.train()
    found = weft.gradient(module, split(batch, 5, 1, 5))
    assert module.training, "as it was"
    assert found.keys() == expected.keys()
    assert not found["idle"].any()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.float(), rtol=1e-6, atol=1e-9)


def test_logistic_regression_in_closed_form() -> None:
    """The gradient of weight (c, j) is the mean of (p_c - [y = c]) x_j."""
    module, x, labels = nn.Linear(4, 3).double(), torch.randn(50, 4).double(), torch.randint(0, 3, (50,))
    wrong = module(x).softmax(1).detach() - nn.functional.one_hot(labels, 3)
    found = weft.gradient(module, [{"input": x, "labels": labels}])
    torch.testing.assert_close(found["weight"], (wrong.T @ x / 50).float())
    torch.testing.assert_close(found["bias"], wrong.mean(0).float())


def test_a_linear_regression_by_hand() -> None:
    """Outputs 1 * 2 + 3 = 5 and 1 * -1 + 3 = 2; errors 5 - 1 = 4 and 2 - 4 = -2: gradients (4 * 2 + 2) / 2 = 5, 1."""
    module = nn.Linear(1, 1)
    module.weight.data.fill_(1.0), module.bias.data.fill_(3.0)
    batch = {"input": torch.tensor([[2.0], [-1.0]]), "labels": torch.tensor([1.0, 4.0])}
    found = weft.gradient(module, [batch], likelihood=Regression())
    assert (float(found["weight"]), float(found["bias"])) == (5.0, 1.0)


def test_an_intervention_by_hand() -> None:
    """Losses 16/2 and 4/2, mean 5. Weight 2: errors 6, -3, mean loss 11.25. Bias 0: errors 1, -5, mean loss 6.5."""
    base, tuned = nn.Linear(1, 1), nn.Linear(1, 1)
    base.weight.data.fill_(1.0), base.bias.data.fill_(3.0)
    tuned.weight.data.fill_(2.0), tuned.bias.data.fill_(0.0)
    batch = {"input": torch.tensor([[2.0], [-1.0]]), "labels": torch.tensor([1.0, 4.0])}
    found = weft.importance(base, tuned, [batch], likelihood=Regression())
    assert {name: float(one) for name, one in found.items()} == {"weight": 5.0 - 11.25, "bias": 5.0 - 6.5}
    assert base.weight.item() == 1.0


@pytest.mark.parametrize("partition", ["layer", "tensor", "model"])
def test_interventions_are_those_of_copies_of_the_model(partition: Any) -> None:
    base, batch = stack(), examples()
    tuned = moved(base, 0.5)
    kept = {name: p.clone() for name, p in base.named_parameters()}
    layer = {"layers.0.weight": "layers.0", "layers.0.bias": "layers.0", "layers.1.bias": "layers.1"}
    parts = {name: {"layer": layer.get(name, name), "tensor": name, "model": ""}[partition] for name in kept}
    found = weft.importance(base, tuned, split(batch, 4, 7), partition)
    assert found.keys() == parts.keys()
    for name, part in parts.items():
        copy = stack()
        copy.load_state_dict(base.state_dict())
        with torch.no_grad():
            for other, parameter in copy.named_parameters():
                if parts[other] == part:
                    parameter.copy_(tuned.get_parameter(other))
        expected = (loss(base, batch) - loss(copy, batch)).item()
        assert found[name].shape == ()
        assert float(found[name]) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert all(p.equal(kept[name]) for name, p in base.named_parameters()), "the base is as it was"
    assert float(found["idle"]) == 0.0 or partition == "model"


def test_to_first_order_an_intervention_is_the_product_with_the_gradient() -> None:
    """Twice as small a step leaves a quarter of the difference; nothing else would."""
    base, batch = stack(), examples()
    slopes = weft.gradient(base, [batch])

    def differences(step: float) -> np.ndarray:
        tuned = moved(base, step)
        found = weft.importance(base, tuned, [batch], "tensor")
        products = {
            name: float(((tuned.get_parameter(name) - own).detach() * slopes[name]).sum())
            for name, own in base.named_parameters()
        }
        return np.array([float(found[name]) + product for name, product in products.items() if name != "idle"])

    coarse, fine = differences(2e-3), differences(1e-3)
    assert (np.abs(coarse) > 1e-8).all()
    np.testing.assert_allclose(coarse / fine, 4.0, rtol=0.1)


def test_what_is_equal_costs_no_pass_and_changes_nothing() -> None:
    base, batch = stack(), examples()
    tuned = stack()
    tuned.load_state_dict(base.state_dict())
    with torch.no_grad():
        tuned.head.bias.add_(1.0)
    passes = []
    base.register_forward_hook(lambda *_: passes.append(1))
    found = weft.importance(base, tuned, [batch], "tensor")
    assert not any(one for name, one in found.items() if name != "head.bias")
    assert float(found["head.bias"]) == pytest.approx(0.0, abs=1e-12), "one constant was added to all logits"
    assert len(passes) == 2


def test_a_language_model_is_judged_by_all_its_tokens() -> None:
    """A bigram model: minus the sum over tokens but the first of log p(next given token)."""
    module, ids = nn.Embedding(5, 5).double(), torch.tensor([[0, 1, 2, 1], [3, 4, 0, 0]])
    logs = module.weight.log_softmax(1)
    total = -sum(logs[row[t], row[t + 1]] for row in ids.tolist() for t in range(3)) / 2
    (expected,) = torch.autograd.grad(total, module.weight)

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = module

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.table(input_ids)

    found = weft.gradient(Renamed(), [{"input_ids": ids}], likelihood=CausalLM())
    torch.testing.assert_close(found["table.weight"], expected.float())


def test_an_encoder_is_judged_by_its_head() -> None:
    encoder, head = nn.Linear(4, 2).double(), torch.randn(3, 2).double()
    batch = {"input": torch.randn(6, 4).double(), "labels": torch.randint(0, 3, (6,))}
    total = nn.functional.cross_entropy(encoder(batch["input"]) @ head.T, batch["labels"])
    expected = torch.autograd.grad(total, encoder.weight)[0]
    found = weft.gradient(encoder, [batch], likelihood=EncoderWithHead(weight=head))
    torch.testing.assert_close(found["weight"], expected.float())


def test_a_loss_of_ones_own() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    mine = Custom(lambda module, batch, labels: -((module(batch["x"])[:, 0] - batch["y"]) ** 2))
    batch = {"x": torch.tensor([[2.0]]), "y": torch.tensor([5.0])}
    assert float(weft.gradient(module, [batch], mine)["weight"]) == 2 * (2.0 - 5.0) * 2.0


def failing(**changes: Any) -> str:
    asked: dict[str, Any] = {"model": stack(), "batches": [examples()], **changes}
    with pytest.raises(InputError) as caught:
        weft.gradient(**asked)
    return str(caught.value)


def test_what_cannot_be() -> None:
    batch = examples()
    unlabelled = {"x": batch["x"]}
    assert failing(batches=[unlabelled]).startswith("the data have no column 'labels'")
    assert failing(batches=[]).startswith("no examples were seen")
    assert "label 7 with 3 classes" in failing(batches=[{**batch, "labels": torch.full((11,), 7)}])
    assert failing(model=stack().requires_grad_(False)).startswith("the model has no parameters to look at")
    broken = stack()
    broken.head.bias.data[0] = float("nan")
    assert "logits hold NaN or infinity" in failing(model=broken)
    assert "not [11, tokens, classes]" in failing(likelihood=TokenClassification())


def test_models_that_are_not_of_one_kind() -> None:
    def told(tuned: nn.Module) -> str:
        with pytest.raises(InputError) as caught:
            weft.importance(stack(), tuned, [examples()])
        return str(caught.value)

    assert told(nn.Linear(4, 3)).startswith("the models differ in bias, head.bias")
    wide = stack()
    wide.head = nn.Linear(4, 5)
    assert told(wide).startswith("head.weight has shape [3, 4] in the base and [5, 4] in the model")


def test_measured_in_memory_they_merge() -> None:
    """Of two parts of one task vector the one that lowers the loss is kept, the other dropped."""
    base, batch = stack(), examples()
    tuned = [moved(base, 0.3, seed) for seed in (1, 2)]
    states = [{n: p.detach().numpy() for n, p in m.named_parameters()} for m in (base, *tuned)]
    files = [weft.importance(base, model, [batch]) for model in tuned]
    slopes = [weft.gradient(base, [batch])] * 2
    for known in ({"importance": files}, {"gradient": slopes}):
        options = {"drop": 0.0, "weight_temperature": 1e-4, "method": "apl", **known}
        merged = weft.merge(states[1:], base=states[0], **options)
        for name in ("head.weight", "layers.1.bias"):
            own = [s[name] - states[0][name] for s in states[1:]]
            part = [n for n in states[0] if n.startswith("layers.1") or n == name] if "layers" in name else [name]
            if "gradient" in known:
                sizes = [abs(sum(float(((s[n] - states[0][n]) * slopes[0][n].numpy()).sum()) for n in part))
                         for s in states[1:]]  # fmt: skip
            else:
                sizes = [float(file[name]) for file in files]
            best = int(np.argmax(sizes))
            np.testing.assert_allclose(merged[name] - states[0][name], 2 * own[best], rtol=1e-6, atol=1e-9)
