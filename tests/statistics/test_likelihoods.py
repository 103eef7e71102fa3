"""Scores, labels and draws; what is counted and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weft import InputError
from weft.statistics.families import likelihood_of
from weft.statistics.labels import Kind, Labels, drawn, uniforms
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

SAMPLED, OBSERVED, EXACT = Labels(Kind.SAMPLED), Labels(Kind.OBSERVED), Labels(Kind.EXACT)


class Table(nn.Module):
    """Logits from a table: whatever token, its row."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(9, classes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.table[input_ids]


IDS = torch.tensor([[1, 2, 3, 4], [4, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}


def the_only(scores: Any) -> Tensor:
    [score] = scores
    return score


def test_a_causal_model_predicts_what_comes_next_and_no_padding() -> None:
    module = Table()
    logs = module(IDS).log_softmax(-1)
    expected = torch.stack([logs[0, 0, 2] + logs[0, 1, 3] + logs[0, 2, 4], logs[1, 0, 3]])
    torch.testing.assert_close(the_only(CausalLM().scores(module, TEXT, OBSERVED, range(2))), expected)
    average = the_only(CausalLM(average=True).scores(module, TEXT, OBSERVED, range(2)))
    torch.testing.assert_close(average, expected / torch.tensor([3.0, 1.0]))


def test_a_prompt_that_is_marked_is_not_predicted() -> None:
    module = Table()
    labels = IDS.clone()
    labels[0, :2] = -100
    logs = module(IDS).log_softmax(-1)
    score = the_only(CausalLM().scores(module, {**TEXT, "labels": labels}, OBSERVED, range(2)))
    torch.testing.assert_close(score, torch.stack([logs[0, 1, 3] + logs[0, 2, 4], logs[1, 0, 3]]))


def test_tokens_are_classified_one_by_one() -> None:
    module = Table(3)
    labels = torch.tensor([[0, 1, -100, 2], [1, 1, -100, -100]])
    logs = module(IDS).log_softmax(-1)
    score = the_only(TokenClassification().scores(module, {**TEXT, "labels": labels}, OBSERVED, range(2)))
    expected = torch.stack([logs[0, 0, 0] + logs[0, 1, 1] + logs[0, 3, 2], logs[1, 0, 1] + logs[1, 1, 1]])
    torch.testing.assert_close(score, expected)
    assert len(list(TokenClassification().scores(module, TEXT, EXACT, range(2)))) == 4 * 3


def test_only_masked_tokens_are_filled_in() -> None:
    module = Table()
    labels = torch.tensor([[-100, 2, -100, -100], [-100, 3, -100, -100]])
    logs = module(IDS).log_softmax(-1)
    score = the_only(MaskedLM().scores(module, {**TEXT, "labels": labels}, OBSERVED, range(2)))
    torch.testing.assert_close(score, torch.stack([logs[0, 1, 2], logs[1, 1, 3]]))
    prediction = MaskedLM(mask_token=3).predict(module, TEXT)
    assert prediction.counted.tolist() == [[False, False, True, False], [False, True, False, False]]
    with pytest.raises(InputError, match="nobody says which tokens are masked"):
        MaskedLM().predict(module, TEXT)


def test_an_encoder_is_pooled_and_read_by_the_given_head() -> None:
    module, head, bias = Table(4), torch.randn(3, 4), torch.randn(3)
    hidden = module(IDS)
    mean = EncoderWithHead(weight=head, bias=bias).predict(module, TEXT).logits[:, 0]
    torch.testing.assert_close(mean[1], hidden[1, :2].mean(0) @ head.T + bias)
    first = EncoderWithHead(weight=head, pooling="cls").predict(module, TEXT).logits[:, 0]
    torch.testing.assert_close(first, hidden[:, 0] @ head.T)
    with pytest.raises(InputError, match="gives 4 features and the head takes 5"):
        EncoderWithHead(weight=torch.zeros(3, 5)).predict(module, TEXT)
    with pytest.raises(InputError, match="there is no pooling 'max'"):
        EncoderWithHead(weight=head, pooling="max")
    with pytest.raises(InputError, match="an encoder needs a head"):
        EncoderWithHead()


def test_a_regression_is_gaussian() -> None:
    module = nn.Linear(2, 2)
    batch = {"input": torch.randn(3, 2), "labels": torch.randn(3, 2)}
    score = the_only(Regression().scores(module, batch, OBSERVED, range(3)))
    normal = torch.distributions.Normal(module(batch["input"]), 1.0).log_prob(batch["labels"]).sum(1)
    gradients = [torch.autograd.grad(s.sum(), module.weight, retain_graph=True)[0] for s in (score, normal)]
    torch.testing.assert_close(*gradients)
    first, second = Regression().scores(module, batch, EXACT, range(3))
    torch.testing.assert_close(torch.stack([first, second], 1), module(batch["input"]))


def test_weights_of_all_labels_are_their_probabilities() -> None:
    module = nn.Linear(2, 3)
    batch = {"input": torch.randn(4, 2)}
    scores = torch.stack(list(Classification().scores(module, batch, Labels(), range(4))), 1)
    logs = module(batch["input"]).log_softmax(-1)
    torch.testing.assert_close(scores, logs.exp().sqrt() * logs)


def test_auto_goes_through_sixteen_classes_and_draws_from_seventeen() -> None:
    for classes, passes in ((16, 16), (17, 1)):
        module = nn.Linear(2, classes)
        assert len(list(Classification().scores(module, {"input": torch.zeros(2, 2)}, Labels(), range(2)))) == passes
    assert len(list(TokenClassification().scores(Table(2), TEXT, Labels(), range(2)))) == 1, "whatever the padding"


def test_draws_follow_the_prediction() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(1, 200_000, 4)
    counted = torch.ones(1, 200_000, dtype=torch.bool)
    found = drawn(logits, counted, SAMPLED, [3], 0)
    shares = torch.bincount(found[0], minlength=4) / 200_000
    torch.testing.assert_close(shares, logits[0, 0].softmax(-1), rtol=0, atol=0.005)


def test_draws_depend_on_seed_example_sample_and_position_only() -> None:
    torch.manual_seed(1)
    logits = torch.randn(6, 5, 1000)
    counted = torch.ones(6, 5, dtype=torch.bool)
    together = drawn(logits, counted, SAMPLED, range(10, 16), 0)
    apart = torch.cat([drawn(logits[i : i + 1], counted[:1], SAMPLED, [10 + i], 0) for i in range(6)])
    assert torch.equal(together, apart)
    left, right = torch.zeros(6, 8, 1000), torch.zeros(6, 8, 1000)
    left[:, 3:], right[:, :5] = logits, logits
    padding = torch.zeros(6, 3, dtype=torch.bool)
    on_the_left = drawn(left, torch.cat([padding, counted], 1), SAMPLED, range(10, 16), 0)
    on_the_right = drawn(right, torch.cat([counted, padding], 1), SAMPLED, range(10, 16), 0)
    assert torch.equal(on_the_left[:, 3:], together)
    assert torch.equal(on_the_right[:, :5], together)
    for other in (
        drawn(logits, counted, Labels(Kind.SAMPLED, seed=1), range(10, 16), 0),
        drawn(logits, counted, SAMPLED, range(11, 17), 0),
        drawn(logits, counted, SAMPLED, range(10, 16), 1),
    ):
        assert (other != together).float().mean() > 0.9
    assert len({*uniforms(0, 0, 0, 100).tolist()}) == 100


def test_a_callers_own_likelihood() -> None:
    module = nn.Linear(2, 3)
    batch = {"x": torch.randn(4, 2)}

    def log(module: Any, batch: Any, labels: Tensor | None) -> Tensor:
        logs = module(batch["x"]).log_softmax(-1)
        return logs[:, 1] if labels is None else logs.gather(1, labels[:, None])[:, 0]

    same = Classification().scores(module, {"input": batch["x"]}, EXACT, range(4))
    for ours, theirs in zip(Custom(log, classes=3).scores(module, batch, EXACT, range(4)), same, strict=True):
        torch.testing.assert_close(ours, theirs)
    ours = the_only(Custom(log, classes=3).scores(module, batch, SAMPLED, range(4)))
    torch.testing.assert_close(
        ours, the_only(Classification().scores(module, {"input": batch["x"]}, SAMPLED, range(4)))
    )
    observed = the_only(Custom(log).scores(module, batch, OBSERVED, range(4)))
    torch.testing.assert_close(observed, module(batch["x"]).log_softmax(-1)[:, 1])


REFUSED = [
    (lambda b: Custom(lambda m, b, y: m(b["x"]).sum()), OBSERVED, "has shape [] for 4 example(s)"),
    (lambda b: Custom(lambda m, b, y: m(b["x"])[:, 0]), EXACT, "needs to know which labels there are"),
    (lambda b: Custom(lambda m, b, y: m(b["x"])[:, 0] * 0, classes=3), EXACT, "sum to 3, not to 1"),
    (lambda b: Custom(lambda m, b, y: m(b["x"])[:, 0] / 0), OBSERVED, "example 7: the log-likelihood is NaN or inf"),
]


@pytest.mark.parametrize(("make", "labels", "text"), REFUSED)
def test_own_likelihoods_that_are_none(make: Any, labels: Labels, text: str) -> None:
    with pytest.raises(InputError) as error:
        list(make(None).scores(nn.Linear(2, 3), {"x": torch.ones(4, 2)}, labels, range(7, 11)))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("likelihood", "batch", "labels", "text"),
    [
        (Classification(), {"labels": None}, OBSERVED, "the data have no column 'labels'"),
        (Classification(), {"labels": [0, 3]}, OBSERVED, "example 6: label 3 with 3 classes"),
        (Classification(), {"labels": [0, -1]}, OBSERVED, "example 6: label -1 with 3 classes"),
        (Classification(), {"labels": [0.5, 1.0]}, OBSERVED, "labels holds real numbers"),
        (Classification(), {"labels": [[0], [1]]}, OBSERVED, "labels has shape [2, 1]"),
        (Classification(), {"input": [[0.0, float("nan")], [1, 1]]}, EXACT, "example 5: the model's logits hold NaN"),
        (
            Classification(),
            {"inptu": [[0.0, 1.0], [1, 1]]},
            EXACT,
            "Linear takes no 'inptu'\n  -> did you mean 'input'?",
        ),
        (CausalLM(), {}, SAMPLED, "the logits have shape [2, 3], not [2, tokens, classes]"),
        (Seq2SeqLM(), {}, SAMPLED, "no column 'labels', the target"),
        (Regression(), {}, OBSERVED, "the data have no column 'labels'"),
        (Regression(), {"labels": [1.0, 2.0]}, OBSERVED, "labels has shape [2] and the model's output [2, 3]"),
    ],
)
def test_refusals(likelihood: Any, batch: dict[str, Any], labels: Labels, text: str) -> None:
    whole = {"input": torch.ones(2, 2)} | {name: torch.tensor(c) for name, c in batch.items() if c is not None}
    with pytest.raises(InputError) as error:
        list(likelihood.scores(nn.Linear(2, 3), whole, labels, range(5, 7)))
    assert text in str(error.value)


def test_exact_labels_of_a_language_model_are_refused() -> None:
    with pytest.raises(InputError, match="exact would take 3 positions x 5,000 classes = 15,000 passes"):
        list(CausalLM().scores(Table(5000), TEXT, EXACT, range(2)))


def test_words_that_are_no_labels() -> None:
    with pytest.raises(InputError, match="did you mean 'sampled'"):
        Labels.named("sample")
    with pytest.raises(InputError, match="labels: there is no 'trial'"):
        Labels.named("trial")
    with pytest.raises(InputError, match="samples is 0"):
        Labels.named("sampled", 0)
    with pytest.raises(InputError, match="seed is -1"):
        Labels.named("sampled", 1, -1)


def test_heads_that_choose_no_class_are_refused() -> None:
    one, batch = nn.Linear(2, 1), {"input": torch.ones(2, 2)}
    with pytest.raises(InputError, match="one output, which is no choice of a class"):
        list(Classification().scores(one, batch, EXACT, range(2)))
    from types import SimpleNamespace

    one.config = SimpleNamespace(problem_type="multi_label_classification")
    with pytest.raises(InputError, match="yes or no to several labels"):
        list(Classification().scores(one, batch, EXACT, range(2)))


def test_the_class_of_a_model_says_its_likelihood() -> None:
    import transformers as tr

    small = {
        "vocab_size": 9,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 4,
    }
    bert = tr.BertConfig(**small, num_labels=3)
    assert likelihood_of(tr.BertForSequenceClassification(bert)) == Classification()
    assert likelihood_of(tr.BertForTokenClassification(bert)) == TokenClassification()
    assert likelihood_of(tr.BertForMaskedLM(bert)) == MaskedLM()
    one = tr.BertConfig(**small, num_labels=1)
    assert likelihood_of(tr.BertForSequenceClassification(one)) == Regression()
    assert likelihood_of(tr.LlamaForCausalLM(tr.LlamaConfig(**small))) == CausalLM()
    with pytest.raises(InputError, match="BertModel says nothing about labels"):
        likelihood_of(tr.BertModel(bert))
