"""From paths to a file of statistics: right numbers under right names, whatever happened on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.statistics.models import SENTENCES, WORDS, bert, gpt2, images, jsonl, texts, vit
from weft.engine.progress import Progress
from weft.errors import InputError
from weft.statistics import room
from weft.statistics.adding import add, look
from weft.statistics.data import Columns
from weft.statistics.measuring import Request, measure
from weft.statistics.snapshots import Keeper, read_snapshot, snapshot_path

transformers = pytest.importorskip("transformers")
pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    bert(folder / "bert", 1), bert(folder / "tuned", 2)
    texts(folder / "rows.jsonl")
    return folder


@pytest.fixture
def request_(place: Path) -> Request:
    return Request(str(place / "bert"), str(place / "rows.jsonl"), device="cpu")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def slow_fisher(module: Any, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """By the formula, in float64: one example, one label, one backward pass at a time."""
    module = module.double().eval()
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for batch in batches:
        logs = module(**batch).logits[0].log_softmax(-1)
        for label in range(len(logs)):
            module.zero_grad()
            logs[label].backward(retain_graph=True)
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    total[name] += logs[label].exp().detach() * parameter.grad**2
    return {name: t / len(batches) for name, t in total.items()}


def test_a_classifier_against_the_formula(place: Path, request_: Request, tmp_path: Path) -> None:
    made = measure(request_, tmp_path / "f.safetensors")
    assert (made.examples, made.labels, made.task) == (12, "exact", "sequence-classification")
    model = transformers.BertForSequenceClassification.from_pretrained(place / "bert")
    ids = [[2, *(WORDS.index(word) for word in text.split()), 3] for text in SENTENCES]
    expected = slow_fisher(model, [{"input_ids": torch.tensor([one])} for one in ids])
    found = load_file(tmp_path / "f.safetensors")
    assert found.keys() == expected.keys()
    for name, fisher in expected.items():
        assert torch.allclose(found[name].double(), fisher, rtol=1e-3, atol=1e-9), name
    norm = float(metadata(tmp_path / "f.safetensors")["norm"])
    assert norm == pytest.approx(float(sum((f**2).sum() for f in found.values())) ** 0.5, rel=1e-6)


def example_losses(folder: Path, tuned: dict[str, torch.Tensor] | None = None) -> tuple[Any, torch.Tensor]:
    """The model in float64, some of its tensors replaced, and the mean of its losses on the rows."""
    model = transformers.BertForSequenceClassification.from_pretrained(folder).double().eval()
    with torch.no_grad():
        for name, tensor in (tuned or {}).items():
            model.get_parameter(name).copy_(tensor)
    ids = [[2, *(WORDS.index(word) for word in text.split()), 3] for text in SENTENCES]
    logs = [model(input_ids=torch.tensor([one])).logits[0].log_softmax(-1)[k % 3] for k, one in enumerate(ids)]
    return model, -torch.stack(logs).mean()


def test_a_gradient_against_plain_torch(place: Path, request_: Request, tmp_path: Path) -> None:
    made = measure(replace(request_, kind="gradient", batch_size=5), tmp_path / "g.safetensors")
    assert (made.examples, made.labels, made.kind) == (12, "observed", "gradient")
    model, loss = example_losses(place / "bert")
    loss.backward()
    found = load_file(tmp_path / "g.safetensors")
    assert found.keys() == dict(model.named_parameters()).keys()
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name].double(), parameter.grad, rtol=1e-3, atol=1e-6 * largest), name
    norm = sum(float((p.grad**2).sum()) for p in model.parameters()) ** 0.5
    assert made.norm == pytest.approx(norm, rel=1e-4)
    assert metadata(tmp_path / "g.safetensors")["kind"] == "gradient"


@pytest.mark.parametrize("partition", ["layer", "tensor", "model"])
def test_importances_against_plain_torch(partition: str, place: Path, request_: Request, tmp_path: Path) -> None:
    asked = replace(request_, kind="importance", tuned=str(place / "tuned"), partition=partition, batch_size=5)
    measure(asked, tmp_path / "i.safetensors")
    found, tuned = (load_file(file) for file in (tmp_path / "i.safetensors", place / "tuned" / "model.safetensors"))
    assert found.keys() == tuned.keys()
    assert {tensor.shape for tensor in found.values()} == {torch.Size([])}
    before = example_losses(place / "bert")[1]
    layer = "bert.encoder.layer.1"
    for name in (f"{layer}.output.dense.weight", "classifier.bias"):
        within = {"layer": layer if layer in name else name, "tensor": name, "model": ""}[partition]
        part = {other: tensor for other, tensor in tuned.items() if other.startswith(within)}
        expected = float((before - example_losses(place / "bert", part)[1]).detach())
        assert float(found[name]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    told = metadata(tmp_path / "i.safetensors")
    assert (told["kind"], told["partition"], told["labels"]) == ("importance", partition, "observed")
    assert (told["model"], told["base"]) == (str(place / "tuned"), str(place / "bert"))


def test_requests_that_make_no_sense(place: Path, request_: Request, tmp_path: Path) -> None:
    for changes, expected in (
        ({"kind": "fischer"}, "there are no statistics 'fischer'\n  -> did you mean 'fisher'?"),
        ({"kind": "gradient", "labels": "sampled"}, "gradient: the loss is that of the data's own labels, not of"),
        ({"kind": "importance"}, "importance is about a base and a model fine-tuned from it\n  -> name that model as"),
        ({"tuned": str(place / "tuned")}, "fisher is about one model\n  -> leave `tuned` out"),
        ({"partition": "row"}, "there is no partition 'row'\n  -> choose one of layer, tensor, model"),
    ):  # fmt: skip
        assert expected in failing(replace(request_, **changes), tmp_path / "f.safetensors")


def test_images_under_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    """The loaded model calls it `q_proj`, the checkpoint `query`."""
    vit(tmp_path / "vit"), images(tmp_path / "images")
    measure(Request(str(tmp_path / "vit"), str(tmp_path / "images"), device="cpu"), tmp_path / "f.safetensors")
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "vit")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "vit")
    import datasets

    pixels = [
        processor(images=row["image"], return_tensors="pt") for row in datasets.load_from_disk(tmp_path / "images")
    ]
    expected = slow_fisher(model, [{"pixel_values": one["pixel_values"].double()} for one in pixels])
    found = load_file(tmp_path / "f.safetensors")
    stored = load_file(tmp_path / "vit" / "model.safetensors")
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in stored.items()}
    query = found["vit.encoder.layer.0.attention.attention.query.weight"].double()
    assert torch.allclose(query, expected["vit.layers.0.attention.q_proj.weight"], rtol=1e-3, atol=1e-9)


def test_the_size_of_batches_only_rounds(request_: Request, tmp_path: Path) -> None:
    outputs = []
    for size in (1, 5, None):
        outputs.append(tmp_path / f"{size}.safetensors")
        measure(replace(request_, batch_size=size, labels="sampled", seed=3), outputs[-1])
    first, *others = map(load_file, outputs)
    for other in others:
        assert all(torch.allclose(first[name], other[name], rtol=1e-3, atol=1e-9) for name in first)


def test_other_draws_give_another_result(request_: Request, tmp_path: Path) -> None:
    for seed in (0, 1):
        measure(replace(request_, labels="sampled", seed=seed), tmp_path / f"{seed}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() != (tmp_path / "1.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["fisher", "gram", "gradient", "importance"])
def test_two_halves_added_are_the_whole(kind: str, place: Path, tmp_path: Path) -> None:
    """Unequal halves, of examples of unequal length."""
    texts(tmp_path / "one.jsonl", 5), texts(tmp_path / "two.jsonl", 7, first=5)
    for part in (tmp_path / "one", tmp_path / "two", place / "rows"):
        asked = Request(str(place / "bert"), f"{part}.jsonl", kind, device="cpu", tuned=tuned_for(kind, place))
        measure(asked, tmp_path / f"{part.name}.safetensors")
    about = add([tmp_path / "one.safetensors", tmp_path / "two.safetensors"], tmp_path / "sum.safetensors")
    whole, added = load_file(tmp_path / "rows.safetensors"), load_file(tmp_path / "sum.safetensors")
    assert whole.keys() == added.keys()
    largest = max(float(tensor.abs().max()) for tensor in whole.values())
    noise = 1e-12 if kind in ("fisher", "gram") else 1e-6  # of squares, or of the numbers themselves
    for name in whole:  # batches differ, and with them what is rounded: where a gradient is 0, to something very small
        close = 1e-6 * float(whole[name].abs().max()) + noise * largest
        assert torch.allclose(whole[name], added[name], rtol=1e-5, atol=close), name
    told, own = look(tmp_path / "rows.safetensors")[0], look(tmp_path / "sum.safetensors")[0]
    assert own == about
    assert (own.examples, own.tokens) == (told.examples, told.tokens) == (12, told.tokens)
    assert own.norm == pytest.approx(told.norm) if kind in ("fisher", "gradient") else own.norm is None


def tuned_for(kind: str, place: Path) -> str:
    return str(place / "tuned") if kind == "importance" else ""


def test_what_cannot_be_added(place: Path, request_: Request, tmp_path: Path) -> None:
    bert(tmp_path / "other", 2)
    texts(tmp_path / "more.jsonl", 4)
    asked = {
        "a": request_,
        "other": replace(request_, model=str(tmp_path / "other"), data=str(tmp_path / "more.jsonl")),
        "sampled": replace(request_, labels="sampled", data=str(tmp_path / "more.jsonl")),
    }
    for name, one in asked.items():
        measure(one, tmp_path / f"{name}.safetensors")

    def told(other: str) -> str:
        with pytest.raises(InputError) as caught:
            add([tmp_path / "a.safetensors", tmp_path / f"{other}.safetensors"], tmp_path / "sum.safetensors")
        assert not (tmp_path / "sum.safetensors").exists()
        return str(caught.value)

    assert "not the same model" in told("other")
    assert "labels is exact in" in told("sampled")
    assert "measured on the same data, which would count twice" in told("a")
    save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")
    assert "says nothing of what it was measured on" in told("plain")


class Stopping(Progress):
    """Interrupts after so many batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches
        self._is_measuring = False

    def phase(self, name: str, total: int) -> None:
        self._is_measuring = name == "measuring"

    def advance(self, count: int) -> None:
        if self._is_measuring and count:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": "sampled", "samples": 2}, *({"kind": kind} for kind in ("gram", "gradient", "importance"))],
    ids=str,
)
def test_stopped_anywhere_it_ends_in_the_same_bytes(
    options: dict[str, Any], place: Path, request_: Request, tmp_path: Path
) -> None:
    asked = replace(request_, batch_size=3, tuned=tuned_for(options.get("kind", ""), place), **options)
    measure(asked, tmp_path / "whole.safetensors")
    output = tmp_path / "stopped.safetensors"
    continued = []
    for batches in itertools.count(1):
        try:
            made = measure(asked, output, interval=0.0, progress=Stopping(batches % 3 + 1))
        except KeyboardInterrupt:
            assert not output.exists()
            snapshot = read_snapshot(snapshot_path(output))
            continued.append(snapshot.done if snapshot else 0)
            continue
        assert made.continued == continued[-1] > 0
        break
    assert continued == sorted(continued)
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped.safetensors", "whole.safetensors"]


def stopped(asked: Request, output: Path, batches: int = 2) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(asked, output, interval=0.0, progress=Stopping(batches))
    assert snapshot_path(output).exists()


def test_batches_chosen_from_memory_stay_what_they_were(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(request_, tmp_path / "roomy.safetensors")
    monkeypatch.setattr(room, "MOST_EXAMPLES", 2)
    measure(request_, tmp_path / "narrow.safetensors")
    output = tmp_path / "stopped.safetensors"
    stopped(request_, output)
    monkeypatch.setattr(room, "MOST_EXAMPLES", 32)
    assert measure(request_, output).continued in (2, 4)
    assert output.read_bytes() == (tmp_path / "narrow.safetensors").read_bytes()
    assert output.read_bytes() != (tmp_path / "roomy.safetensors").read_bytes(), "else this test says nothing"


def test_a_snapshot_belongs_to_one_measurement(place: Path, request_: Request, tmp_path: Path) -> None:
    asked, output = replace(request_, batch_size=3), tmp_path / "f.safetensors"
    stopped(asked, output)
    for changed, word in [
        (replace(asked, labels="sampled"), "labels was exact, now sampled"),
        (replace(asked, batch_size=4), "batch_size was 3, now 4"),
        (replace(asked, examples=6), "examples was 12, now 6"),
        (replace(asked, kind="gram"), "kind was fisher, now gram"),
    ]:
        with pytest.raises(InputError, match="was begun by a measurement that was interrupted") as caught:
            measure(changed, output)
        assert word in str(caught.value)
    measure(replace(asked, labels="sampled"), output, restart=True)
    assert not snapshot_path(output).exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b[:200] + b"x" + b[201:], lambda b: b""])
def test_a_damaged_snapshot_is_not_believed(
    damage: Callable[[bytes], bytes], request_: Request, tmp_path: Path
) -> None:
    asked, output = replace(request_, batch_size=3), tmp_path / "f.safetensors"
    stopped(asked, output)
    path = snapshot_path(output)
    path.write_bytes(damage(path.read_bytes()))
    assert measure(asked, output).continued == 0
    measure(asked, tmp_path / "whole.safetensors")
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_snapshots_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    keeper = Keeper(tmp_path / "f.safetensors", 60.0)
    assert not keeper.is_due
    now[0] += 61.0
    assert keeper.is_due


def test_everything_is_told_in_the_file(place: Path, request_: Request, tmp_path: Path) -> None:
    measure(replace(request_, labels="sampled", samples=2, seed=7), tmp_path / "f.safetensors")
    told = metadata(tmp_path / "f.safetensors")
    assert told["kind"] == "fisher"
    assert (told["labels"], told["samples"], told["seed"]) == ("sampled", "2", "7")
    assert (told["examples"], told["task"]) == ("12", "sequence-classification")
    assert (told["model"], told["data"]) == (str(place / "bert"), str(place / "rows.jsonl"))
    assert {len(value) for key, value in told.items() if key.endswith("sha256")} == {64}
    import weft

    checkpoint = weft.checkpoints.opening.open_path(place / "bert")  # type: ignore[attr-defined]
    assert told["model_header_sha256"] == checkpoint.fingerprint["header_sha256"]


def test_the_same_rows_have_one_hash_whatever_file_they_come_from(place: Path, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_json(str(place / "rows.jsonl"))
    rows.to_csv(tmp_path / "rows.csv"), rows.to_parquet(tmp_path / "rows.parquet")
    hashes = set()
    for data in (place / "rows.jsonl", tmp_path / "rows.csv", tmp_path / "rows.parquet"):
        measure(Request(str(place / "bert"), str(data), device="cpu"), tmp_path / "f.safetensors", overwrite=True)
        hashes.add(metadata(tmp_path / "f.safetensors")["data_sha256"])
    assert len(hashes) == 1


def failing(asked: Request, output: Path, **options: Any) -> str:
    before = output.read_bytes() if output.is_file() else None
    with pytest.raises(InputError) as caught:
        measure(asked, output, **options)
    assert (output.read_bytes() if output.is_file() else None) == before
    return str(caught.value)


def test_an_output_that_exists_is_kept(request_: Request, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    output.write_text("something")
    assert "exists\n  -> add --overwrite" in failing(request_, output)
    measure(request_, output, overwrite=True)
    assert look(output)[0].kind == "fisher"
    assert "statistics are safetensors files" in failing(request_, tmp_path / "f.bin")
    assert "no such folder" in failing(request_, tmp_path / "there" / "f.safetensors")


def test_labels_that_the_model_does_not_know(request_: Request, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    jsonl(tmp_path / "nine.jsonl", [{"text": "a film", "label": 1}, {"text": "a cat", "label": 9}])
    asked = replace(request_, data=str(tmp_path / "nine.jsonl"))
    told = failing(replace(asked, labels="observed"), output)
    assert "nine.jsonl, row 2: column 'label' holds the label 9, but" in told
    assert "has 3 classes, 0 to 2" in told
    assert "row 2" in failing(replace(asked, columns=Columns(label="label")), output), "named, so checked"
    measure(asked, output)  # not needed, not looked at
    jsonl(tmp_path / "words.jsonl", [{"text": "a film", "label": "goood"}])
    told = failing(replace(asked, data=str(tmp_path / "words.jsonl"), labels="observed"), output, overwrite=True)
    assert "the label 'goood', which the model does not know\n  -> did you mean 'good'?" in told


def test_names_of_classes_are_the_models_own(place: Path, request_: Request, tmp_path: Path) -> None:
    """Data whose classes have another order than the model's."""
    import datasets

    names = ["so-so", "bad", "good"]
    own = {"bad": 0, "good": 1, "so-so": 2}
    rows = [{"text": text, "label": k % 3} for k, text in enumerate(SENTENCES)]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "named"))
    jsonl(tmp_path / "numbers.jsonl", [{**row, "label": own[names[row["label"]]]} for row in rows])
    jsonl(tmp_path / "words.jsonl", [{**row, "label": names[row["label"]]} for row in rows])
    found = []
    for data in ("named", "numbers.jsonl", "words.jsonl"):
        output = tmp_path / f"{data}.safetensors"
        measure(replace(request_, data=str(tmp_path / data), labels="observed"), output)
        found.append(load_file(output))
    assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])


def test_texts_that_are_empty(request_: Request, tmp_path: Path) -> None:
    jsonl(tmp_path / "x.jsonl", [{"text": "a"}, {"text": None}, {"text": "  "}])
    told = failing(replace(request_, data=str(tmp_path / "x.jsonl")), tmp_path / "f.safetensors")
    assert "x.jsonl, row 2: column 'text' is empty" in told
    assert "x.jsonl, row 3: column 'text' is empty" in told


def test_options_that_make_no_sense(request_: Request, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    assert "--examples 0" in failing(replace(request_, examples=0), output)
    assert "--batch-size 0" in failing(replace(request_, batch_size=0), output)
    assert "the model takes between 1 and 32 tokens" in failing(replace(request_, max_length=33), output)
    assert "there are no labels 'all'" in failing(replace(request_, labels="all"), output)
    assert "--samples 0" in failing(replace(request_, samples=0), output)
    assert "--device tpu9" in failing(replace(request_, device="tpu9"), output)


def test_long_examples_are_cut_and_told(request_: Request, tmp_path: Path) -> None:
    made = measure(replace(request_, max_length=6), tmp_path / "f.safetensors")
    cut = sum(len(text.split()) + 2 > 6 for text in SENTENCES)
    assert f"{cut} of 12 examples are cut off at 6 tokens" in made.remarks


@pytest.fixture
def encoder(tmp_path: Path) -> tuple[Path, Path]:
    bert(tmp_path / "encoder", 1, kind="BertModel")
    random = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn(4, 16, generator=random), "bias": torch.zeros(4)}
    save_file(head, tmp_path / "head.safetensors")
    return tmp_path / "encoder", tmp_path / "head.safetensors"


def test_an_encoder_with_a_head(encoder: tuple[Path, Path], request_: Request, tmp_path: Path) -> None:
    folder, head = encoder
    asked = replace(request_, model=str(folder), head=head)
    made = measure(asked, tmp_path / "mean.safetensors")
    assert (made.task, made.labels) == ("encoder", "exact")
    measure(replace(asked, pooling="cls"), tmp_path / "cls.safetensors")
    mean, first = load_file(tmp_path / "mean.safetensors"), load_file(tmp_path / "cls.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    assert mean.keys() == load_file(folder / "model.safetensors").keys()
    assert not torch.allclose(mean[name], first[name])
    assert float(mean["pooler.dense.weight"].sum()) == 0.0, "it is not used"


def test_heads_that_do_not_fit(encoder: tuple[Path, Path], request_: Request, tmp_path: Path) -> None:
    folder, head = encoder
    asked, output = replace(request_, model=str(folder)), tmp_path / "f.safetensors"
    assert "is an encoder without a head" in failing(asked, output)
    save_file({"weight": torch.zeros(3, 8)}, tmp_path / "wide.safetensors")
    told = failing(replace(asked, head=tmp_path / "wide.safetensors"), output)
    assert "has shape [3, 8], but the encoder's output has 16 numbers" in told
    save_file({"weight": torch.zeros(2, 16)}, tmp_path / "two.safetensors")
    told = failing(replace(asked, head=tmp_path / "two.safetensors", labels="observed"), output)
    assert "holds the label 2, but" in told
    assert "two.safetensors has 2 classes" in told
    save_file({"a": torch.zeros(3, 16), "b": torch.zeros(3, 16)}, tmp_path / "both.safetensors")
    assert "a head is one matrix and at most one vector" in failing(
        replace(asked, head=tmp_path / "both.safetensors"), output
    )
    told = failing(replace(request_, head=head, task="causal-lm"), output)
    assert "--head is for an encoder" in told


def test_models_that_cannot_be_measured(place: Path, request_: Request, tmp_path: Path) -> None:
    output = tmp_path / "f.safetensors"
    assert "no such folder" in failing(replace(request_, model=str(tmp_path / "none")), output)
    told = failing(replace(request_, task="masked-lm"), output)
    assert "has no numbers for 'cls.predictions" in told
    assert "BertForSequenceClassification" in told
    assert "unknown task 'causal'" in failing(replace(request_, task="causal"), output)
    gpt2(tmp_path / "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "wordless" / name).unlink()
    assert "has no tokenizer" in failing(replace(request_, model=str(tmp_path / "wordless")), output)
    (tmp_path / "wordless" / "config.json").unlink()
    assert "holds no config.json" in failing(replace(request_, model=str(tmp_path / "wordless")), output)


def test_code_of_a_stranger_is_not_run(request_: Request, tmp_path: Path) -> None:
    bert(tmp_path / "strange", 1)
    config = (tmp_path / "strange" / "config.json").read_text()
    remote = '"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}'
    (tmp_path / "strange" / "config.json").write_text(config.replace('"model_type": "bert"', remote))
    (tmp_path / "strange" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    told = failing(replace(request_, model=str(tmp_path / "strange")), tmp_path / "f.safetensors")
    assert "needs code of its own, which is not run" in told
    assert not (tmp_path / "ran").exists()


def test_masks_depend_on_the_number_of_an_example_alone(tmp_path: Path) -> None:
    from weft.statistics.examples import _masked

    def masked(number: int, seed: int = 0) -> dict[str, Any]:
        ids = [2, *range(10, 40), 3]
        return _masked({"input_ids": ids}, [1, *[0] * 30, 1], 4, (seed, number))

    assert masked(5) == masked(5)
    assert masked(5) != masked(6)
    assert masked(5) != masked(5, seed=1)
    shares = []
    for number in range(300):
        made = masked(number)
        hit = [k for k, label in enumerate(made["labels"]) if label != -100]
        assert hit
        assert {0, 31}.isdisjoint(hit)
        assert all(made["input_ids"][k] == 4 and made["labels"][k] == [2, *range(10, 40), 3][k] for k in hit)
        shares.append(len(hit) / 30)
    assert np.mean(shares) == pytest.approx(0.15, abs=0.02)


def test_a_layer_that_saw_examples_instead_of_tokens_is_added_so(place: Path, tmp_path: Path) -> None:
    """The classifier sees one vector for each example; all others see tokens."""
    asked = Request(str(place / "bert"), str(place / "rows.jsonl"), "gram", gradients=True, device="cpu")
    measure(asked, tmp_path / "g.safetensors")
    about, contents = look(tmp_path / "g.safetensors")
    assert about.rows["classifier.weight"] == about.rows["classifier.weight@gradients"] == 12
    assert about.rows["bert.encoder.layer.0.output.dense.weight"] == about.tokens > 12
    shapes = {one.name: one.shape for one in contents}
    assert shapes["classifier.weight@gradients"] == (3, 3)
    assert shapes["bert.encoder.layer.0.intermediate.dense.weight"] == (16, 16)
    assert shapes["bert.encoder.layer.0.intermediate.dense.weight@gradients"] == (24, 24)


def test_a_regression(tmp_path: Path) -> None:
    """Its classes are none: any number is a label."""
    bert(tmp_path / "r", 1, num_labels=1, id2label={0: "score"}, label2id={"score": 0})
    jsonl(tmp_path / "x.jsonl", [{"text": text, "label": k / 7} for k, text in enumerate(SENTENCES)])
    asked = Request(str(tmp_path / "r"), str(tmp_path / "x.jsonl"), device="cpu")
    assert measure(asked, tmp_path / "exact.safetensors").labels == "exact"
    measure(replace(asked, labels="observed"), tmp_path / "observed.safetensors")
    exact, observed = (load_file(tmp_path / f"{name}.safetensors") for name in ("exact", "observed"))
    assert exact["classifier.bias"].item() == pytest.approx(1.0)
    assert observed["classifier.bias"].item() != pytest.approx(1.0)
