"""Protocols as data: every file is whole, its numbers have a source, and mistakes are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.tiny_protocols import protocol
from weft.algorithms.registry import methods
from weft.errors import InputError
from weft.evaluation.prompts import Asker
from weft.evaluation.protocols.catalogue import FOLDER, load_protocol, protocols
from weft.evaluation.protocols.schema import PromptedTask, ZeroShotTask

EIGHT = ["sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd"]
SEVEN = ["paws", "qasc", "quartz", "story_cloze", "wiki_qa", "winogrande", "wsc"]
ELEVEN = ["rte", "cb", "winogrande", "wic", "wsc", "copa", "h-swag", "story_cloze", "anli-r1", "anli-r2", "anli-r3"]
GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
TASKS = {"vision8": EIGHT, "vision8-l14": EIGHT, "t5-base": SEVEN, "t5-large": SEVEN, "ia3": ELEVEN, "glue8": GLUE}


@pytest.mark.parametrize("name", TASKS)
def test_a_protocol_has_the_papers_tasks_and_methods_that_exist(name: str) -> None:
    known = load_protocol(name)
    assert [task.name for task in known.tasks] == TASKS[name]
    assert {method.method for method in known.methods.values()} <= set(methods())
    assert known.sources
    assert all(task.sources for task in known.tasks)


def test_all_are_told_of_here() -> None:
    assert sorted(TASKS) == list(protocols())
    told = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    assert all(f"`{name}`" in told for name in TASKS)
    used = {task.name for name in TASKS for task in load_protocol(name).tasks}
    assert used == {path.stem.removesuffix("-glue") for path in (FOLDER / "tasks").iterdir()}


def test_numbers_from_memory_are_left_out() -> None:
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    assert not re.search(r"mark: (mem|memory|notes|TIES-claims)", text)
    assert "memory" not in text


@pytest.mark.parametrize(
    ("name", "method", "setting", "mark", "mean"),
    [
        ("vision8", "TIES", "scale 0.3", "log", 72.2),
        ("vision8", "TIES", "tuned on validation", "EMR-txt", 73.6),
        ("vision8", "TIES", "fixed coefficients", "WUDI", 72.4),
        ("vision8-l14", "EMR", "", "EMR-txt", 93.7),
        ("t5-large", "MaTS", "", "ISO-txt", 81.5),
        ("ia3", "TIES", "no validation", "EMR-txt", 64.9),
    ],
)
def test_some_numbers_by_hand(name: str, method: str, setting: str, mark: str, mean: float) -> None:
    found = [p for p in load_protocol(name).published if (p.method, p.setting, p.mark) == (method, setting, mark)]
    assert [row.mean for row in found] == [mean]


@pytest.mark.parametrize("name", TASKS)
def test_means_follow_from_the_tasks_where_a_source_gives_both(name: str) -> None:
    for row in load_protocol(name).published:
        if row.mean is not None and len(row.tasks) == len(TASKS[name]):
            assert sum(row.tasks.values()) / len(row.tasks) == pytest.approx(row.mean, abs=0.06)


@pytest.mark.parametrize(
    ("task", "count", "first", "last"),
    [
        ("sun397", 397, "abbey", "youth hostel"),
        ("cars", 196, "AM General Hummer SUV 2000", "smart fortwo Convertible 2012"),
        ("resisc45", 45, "airplane", "wetland"),
        ("eurosat", 10, "annual crop land", "lake or sea"),
        ("svhn", 10, "0", "9"),
        ("gtsrb", 43, "red and white circle 20 kph speed limit", "white circle with gray strike bar indicating"),
        ("mnist", 10, "0", "9"),
        ("dtd", 47, "banded", "zigzagged"),
    ],
)
def test_classes(task: str, count: int, first: str, last: str) -> None:
    known = load_protocol("vision8").task(task)
    assert isinstance(known, ZeroShotTask)
    assert len(known.classes) == count
    assert known.classes[0] == first
    assert known.classes[-1].startswith(last)


NLI = {"premise": "P.", "hypothesis": "H.", "label": 1}
ROWS: dict[str, dict[str, Any]] = {
    "paws": {"sentence1": "a", "sentence2": "b", "label": 1},
    "qasc": {
        "question": "What?", "fact1": "one.", "fact2": "two.", "answerKey": "B", "combinedfact": "all",
        "formatted_question": "What? (A) x (B) y", "choices": {"text": ["x", "y"], "label": ["A", "B"]},
    },
    "quartz": {
        "question": "More or _____?", "answerKey": "B", "para": "Text.",
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
    },
    "story_cloze": {
        **{f"input_sentence_{k}": f"S{k}." for k in range(1, 5)}, "sentence_quiz1": "x", "sentence_quiz2": "y",
        "answer_right_ending": 2,
    },
    "wiki_qa": {"question": "q", "answer": "a", "label": 1, "document_title": "t"},
    "winogrande": {"sentence": "The _ is.", "option1": "x", "option2": "y", "answer": "2"},
    "wsc": {"text": "He.", "span1_index": 0, "span2_index": 0, "span1_text": "Bob", "span2_text": "He", "label": 1},
    "rte": NLI, "cb": NLI, "anli-r1": NLI, "anli-r2": NLI, "anli-r3": NLI,
    "copa": {"premise": "P.", "choice1": "x", "choice2": "y", "question": "cause", "label": 1},
    "wic": {"word": "w", "sentence1": "a", "sentence2": "b", "label": 1},
    "h-swag": {
        "ctx": "c", "ctx_a": "a", "ctx_b": "b", "activity_label": "l", "endings": ["p", "q", "r", "s"], "label": "1",
    },
}  # fmt: skip


@pytest.mark.parametrize("task", ROWS)
def test_every_prompt_makes_a_question_whose_answer_is_the_second(task: str) -> None:
    name = "ia3" if task in ELEVEN else "t5-base"
    known = load_protocol(name).task(task)
    assert isinstance(known, PromptedTask)
    for prompt in known.prompts:
        made = Asker(prompt.text, prompt.choices).ask(ROWS[task])
        assert made.label == 1
        assert len(set(made.choices)) == len(made.choices) >= 2
        assert made.question


def test_prompts_are_as_many_as_the_papers_code_has() -> None:
    counts = {task.name: len(task.prompts) for task in load_protocol("ia3").tasks if isinstance(task, PromptedTask)}
    assert counts == {
        "rte": 10, "cb": 15, "winogrande": 5, "wic": 10, "wsc": 10, "copa": 8, "h-swag": 7, "story_cloze": 5,
        "anli-r1": 15, "anli-r2": 15, "anli-r3": 15,
    }  # fmt: skip


def test_a_question_by_hand() -> None:
    known = load_protocol("t5-base").task("winogrande")
    assert isinstance(known, PromptedTask)
    made = Asker(known.prompts[0].text, known.prompts[0].choices).ask(ROWS["winogrande"])
    assert made.question == "The _ is. In the previous sentence, does _ refer to x or  y?"
    assert (made.choices, made.label) == (("x", "y"), 1)


@pytest.mark.parametrize(
    ("text", "choices", "row", "told"),
    [
        (
            "{{x}} ||| {{answer_choices[label]}}",
            "a ||| b",
            {"label": 0},
            "'x' is undefined\n  -> the columns are label",
        ),
        ("{{x}} ||| {{answer_choices[label]}}", "a ||| b", {"x": 1, "label": -1}, "has no label\n  -> choose another"),
        ("{{x}} ||| c", "a ||| b", {"x": 1}, "the right answer, 'c', is none of ['a', 'b']\n  -> see whether"),
        ("{{x}}", "a ||| b", {"x": 1}, "the prompt makes 0 answers of it, not one\n  -> a prompt holds ||| once"),
        ("{{x", "a ||| b", {"x": 1}, "the prompt is not Jinja"),
        (
            "{{x.__class__.__mro__}} ||| a",
            "a ||| b",
            {"x": 1},
            "access to attribute '__class__' of 'int' object is unsafe",
        ),
    ],
)
def test_prompts_that_do_not_fit(text: str, choices: str, row: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        Asker(text, choices).ask(row)


ONE = {"kind": "classification", "data": {"hub": "org/data"}}
PARTS = {"title": "t", "family": "encoder", "kinds": ["bert"], "base": {"hub": "o/b"}, "experts": {"a": {"hub": "o/a"}}}


@pytest.mark.parametrize(
    ("parts", "task", "told"),
    [
        ({"experts": {}}, {}, "has the tasks a, but the experts "),
        ({"famly": "clip"}, {}, "unknown key 'famly'\n  -> did you mean 'family'?"),
        ({"base": {}}, {}, "should say either `hub` or `elsewhere`"),
        ({"published": [{"method": "m", "source": "s", "mark": "memory", "mean": 1}]}, {}, "mark should be 'EMR-txt'"),
        ({"published": [{"method": "m", "source": "s", "mark": "repo"}]}, {}, "should hold a `mean`, a `share` or"),
        (
            {"published": [{"method": "m", "source": "s", "mark": "repo", "tasks": {"b": 1}}]},
            {},
            "there is no task 'b'",
        ),
        ({}, {"kind": "clasification"}, "kind 'clasification' is unknown\n  -> the kinds are zero-shot"),
        ({}, {"metric": "pearson"}, "metric 'pearson' does not fit classification"),
        ({}, {"kind": "zero-shot", "classes": ["x", "x"], "templates": ["{}"]}, "names a class twice"),
        ({}, {"kind": "zero-shot", "classes": ["x", "y"], "templates": ["a"]}, "should hold {} once"),
    ],
)
def test_files_with_mistakes(tmp_path: Path, parts: dict[str, Any], task: dict[str, Any], told: str) -> None:
    file = protocol(tmp_path / "mine.yaml", {**PARTS, **parts}, {"a": {**ONE, **task}})
    with pytest.raises(InputError, match=re.escape(told)):
        load_protocol(str(file))


def test_names_with_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no protocol 'vison8'\n  -> did you mean 'vision8'"):
        load_protocol("vison8")
    with pytest.raises(InputError, match="No such file"):
        load_protocol(str(tmp_path / "none.yaml"))
    file = protocol(tmp_path / "mine.yaml", {**PARTS, "tasks": ["sun379"]}, {})
    with pytest.raises(InputError, match="there is no task 'sun379'\n  -> did you mean 'sun397'"):
        load_protocol(str(file))


def test_the_files_of_the_documentation_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    first, second = re.findall(r"```yaml\n(.*?)```", page, re.S)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "mine.yaml").write_text(first)
    (tmp_path / "tasks" / "mine.yaml").write_text(second)
    known = load_protocol(str(tmp_path / "mine.yaml"))
    assert [task.name for task in known.tasks] == ["cola", "mine"]
    assert known.task("mine").columns["label"] == "gold"
