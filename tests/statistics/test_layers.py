"""Every layer's per-example gradients, by formula or by replay, against single examples in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.statistics.single import assert_same, exact
from weft.statistics.estimating import FisherEstimator
from weft.statistics.layers import use
from weft.statistics.likelihoods import Classification


class Scale(nn.Module):
    """The norm of Llama, written out: no formula is known for its class."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt())


class Stubborn(Scale):
    """The same, but torch.func.vmap cannot run it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.detach().sum().item() < 1e9 else 2.0)


class Tokens(nn.Module):
    """Embedded tokens with positions that no example has for itself, something in the middle, a mean, a head."""

    def __init__(self, middle: nn.Module, width: int = 6, padding: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=padding)
        self.places = nn.Embedding(9, 6)
        self.middle = middle
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1])[None])
        return self.head(torch.tanh(self.middle(x)).mean(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.shared(torch.tanh(self.norm(self.shared(x)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(ids))).sum(1)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        y.relu_()
        z = self.two(y)
        z += x
        return z


class ByHand(nn.Module):
    """A weight that is used outside the module that it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inner.weight + self.inner.bias


class Positions(nn.Module):
    """A bias for each pair of positions, looked up without examples and used for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        pairs = (torch.arange(size)[:, None] - torch.arange(size)[None]).clamp(-1, 1) + 1
        return self.table(pairs)[..., 0].softmax(-1) @ x


class Flat(nn.Module):
    """A layer that sees all tokens of all examples as one long row."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.reshape(-1, 6)).reshape(x.shape)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


def conv1d() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Conv1D(6, 6)


MIDDLES = {
    "linear": (lambda: nn.Linear(6, 6), ""),
    "no bias": (lambda: nn.Linear(6, 6, bias=False), ""),
    "conv1d": (conv1d, ""),
    "layer norm": (lambda: nn.LayerNorm(6), ""),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), ""),
    "rms norm": (lambda: nn.RMSNorm(6), ""),
    "used twice": (Twice, ""),
    "in place": (InPlace, ""),
    "flat": (Flat, ""),
    "norm of a model": (lambda: Scale(6), "no formula for Scale: such layers were run again for each example"),
    "norm in turn": (lambda: Stubborn(6), "no formula for Stubborn: such layers were run again for each example"),
    "gru": (
        lambda: nn.Sequential(nn.GRU(6, 6, batch_first=True), First()),
        "one at a time, which is slow (middle.0.weight_ih_l0: middle.0 mixes examples)",
    ),
    "by hand": (ByHand, "one at a time, which is slow (middle.inner.weight, middle.inner.bias: used in a way"),
    "pairs of positions": (
        Positions,
        "one at a time, which is slow (middle.table.weight: middle.table mixes examples)",
    ),
    "attention": (Attention, "no formula for MultiheadAttention"),
}


class First(nn.Module):
    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def compare(module: nn.Module, batch: dict[str, Tensor], remark: str = "") -> None:
    module = module.double()
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn_like(parameter))
    estimator = FisherEstimator(module, Classification(), "exact")
    estimator.update(batch, 0)
    assert_same(estimator.means(), exact(module, batch, lambda one: module(**one)))
    assert remark in " ".join(estimator.remarks)
    assert bool(remark) == bool(estimator.remarks)


@pytest.mark.parametrize("name", MIDDLES)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_layers(name: str, length: int) -> None:
    make, remark = MIDDLES[name]
    if name == "pairs of positions" and length == 1:
        remark = ""  # one pair is one row, which can be repeated for every example
    compare(Tokens(make()), {"ids": torch.randint(0, 11, (5, length))}, remark)


def test_a_row_for_padding_gets_no_gradient() -> None:
    module = Tokens(nn.Linear(6, 6), padding=0)
    ids = torch.randint(1, 11, (4, 5))
    ids[1, 3:] = 0
    compare(module, {"ids": ids})


def test_tied_weights_are_one_weight() -> None:
    compare(Tied(), {"ids": torch.randint(0, 7, (4, 3))})


def test_tied_weights_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of memory so small that rows and examples are taken one by one."""
    from weft.statistics import passes

    for tile in (1, 40, 200, 1000):
        monkeypatch.setattr(passes, "CPU_TILE", tile)
        compare(Tied(), {"ids": torch.randint(0, 7, (4, 3))})
        compare(Tokens(Twice()), {"ids": torch.randint(0, 11, (5, 4))})


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ({"kernel_size": 3}, ""),
        ({"kernel_size": (2, 3), "stride": 2, "padding": (1, 2), "dilation": (1, 2)}, ""),
        ({"kernel_size": 3, "bias": False}, ""),
        ({"kernel_size": 3, "groups": 2}, "no formula for Conv2d"),
        ({"kernel_size": 3, "padding": "same"}, "no formula for Conv2d"),
        ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, "no formula for Conv2d"),
    ],
)
def test_convolutions(options: dict[str, object], remark: str) -> None:
    head = nn.Sequential(nn.Conv2d(2, 4, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    compare(head, {"input": torch.randn(4, 2, 7, 8).double()}, remark)


def test_batch_norm_is_that_of_evaluation_and_keeps_its_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.eval()
    compare(module, {"input": torch.randn(4, 2, 8, 8).double()}, "no formula for BatchNorm2d")
    assert all(torch.equal(buffer.double(), before[name].double()) for name, buffer in module.named_buffers())


def test_as_many_examples_as_positions_are_not_mistaken_for_them() -> None:
    """Tables of positions x positions look like examples x positions when there are as many."""
    remark = "middle.table mixes examples"
    compare(Tokens(Positions()), {"ids": torch.randint(0, 11, (5, 5))}, remark)
    compare(Tokens(Positions()), {"ids": torch.randint(0, 11, (2, 2))}, remark)


def test_a_way_that_gives_something_else_is_given_up() -> None:
    """A layer that says it is linear and is not: only the trial on two examples can tell."""

    class Liar(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) ** 2 + x @ self.weight

    compare(Tokens(Liar(6, 6)), {"ids": torch.randint(0, 11, (5, 4))}, "middle.weight: used in a way that hooks")


def test_tiles_stay_within_the_bound() -> None:
    sizes: list[int] = []

    class Noted(use.Use):
        examples, dtype = 7, torch.float32

        def gradients(self, examples: slice, rows: slice) -> Tensor:
            tile = torch.ones(len(range(7)[examples]), len(range(50)[rows]), 20)
            sizes.append(tile.numel() * 4)
            return tile

    for bound in (1, 80, 1000, 4000, 10**6):
        sizes.clear()
        total = torch.zeros(50, 20, dtype=torch.float64)
        use.add_squares([Noted()], total, bound)
        assert torch.equal(total, torch.full_like(total, 7))
        assert max(sizes) <= max(bound, 20 * 4)
