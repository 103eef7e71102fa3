"""Vocabularies that differ by a few rows: every policy row by row, and what is said without one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as drawing
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import weft
from tests.drawing import as_bytes
from weft.checkpoints.memory import InMemory
from weft.checkpoints.output import MemorySink
from weft.checkpoints.rows import RowMap, Rows
from weft.checkpoints.tokens import find_vocabulary
from weft.engine.executing import execute
from weft.engine.inputs import open_inputs
from weft.engine.planning import make_plan
from weft.engine.progress import Progress
from weft.engine.settings import Settings, budget
from weft.kernels.folds import BLOCK
from weft.recipes.loading import make_recipe

WIDTH = 3
SHARED = ["[UNK]", "the", "cat", "sat"]


def tokenizer_json(tokens: list[str], added: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """A tokenizer of whole words."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": len(tokens) + k, "content": token, **flags, **own}
            for k, (token, own) in enumerate((added or {}).items())
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(tokens)}, "unk_token": "[UNK]"},
    }


def table(tokens: list[str], scale: float, rows: int = 0) -> np.ndarray:
    """A row for each token that tells which token and which model it belongs to, and rows without a token."""
    values = [float(sum(map(ord, token))) * scale for token in tokens]
    values += [scale * (1000 + i) for i in range(len(tokens), rows)]
    return np.outer(values, np.arange(1, WIDTH + 1)).astype(np.float32)


def save(
    folder: Path,
    tokens: list[str],
    scale: float,
    added: tuple[str, ...] = (),
    *,
    rows: int = 0,
    dtype: Any = np.float32,
    more: dict[str, Any] | None = None,
) -> Path:
    """A model whose embedding, head and head's bias have a row for each token."""
    folder.mkdir()
    every = [*tokens, *added]
    values = table(every, scale, rows)
    tensors = {"embed": values, "head": values + 1, "head.bias": values[:, 0] * 2, "body": np.ones((2, WIDTH)) * scale}
    tensors = {name: t.astype(dtype) for name, t in (tensors | (more or {})).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"vocab_size": len(values), "hidden_size": WIDTH}))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokens, {token: {} for token in added})))
    return folder


def merged(
    folder: Path, policy: str | None, models: list[str], **options: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What a merge on disk gives, and what it warned of."""
    recipe = {"method": "task_arithmetic", "base": "base", "models": models, "parameters": {"scale": 1.0}}
    report = weft.merge_to({**recipe, "vocabulary": policy, "folder": folder, **options}, folder / "out")
    return load_file(folder / "out" / "model.safetensors"), [w for w in report.warnings if "descend" not in w]


def check(result: dict[str, np.ndarray], expected: np.ndarray, body: float) -> None:
    """Embedding, head and bias all follow the same rows."""
    assert result["embed"].tolist() == expected.tolist()
    assert result["head"].tolist() == (expected + 1).tolist()
    assert result["head.bias"].tolist() == (expected[:, 0] * 2).tolist()
    assert result["body"].tolist() == np.full((2, WIDTH), body).tolist()


def vocab_size(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


# ------------------------------------------------------------------------------------------------- the policies


def test_base_keeps_the_tokens_of_the_base_and_matches_rows_by_token(tmp_path: Path) -> None:
    save(tmp_path / "base", [*SHARED, "down"], 1)
    save(tmp_path / "a", ["[UNK]", "cat", "the", "dog", "sat", "<x>"], 2)
    result, told = merged(tmp_path, "base", ["a"])
    expected = table([*SHARED, "down"], 2)
    expected[4] = table(["down"], 1)[0]
    check(result, expected, 2)
    assert vocab_size(tmp_path / "out") == 5
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    assert told == ["model 'a': 2 of its tokens are not in the vocabulary of the base: 'dog', '<x>'"]


def test_base_matches_by_position_where_a_tokenizer_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", [*SHARED, "<x>"], 2)
    (tmp_path / "a" / "tokenizer.json").unlink()
    result, told = merged(tmp_path, "base", ["a"])
    check(result, table(SHARED, 2), 2)
    assert len(told) == 1
    assert "rows are matched by position, 4 in the base with 5 here" in told[0]
    assert str(tmp_path / "a") in told[0]


def test_base_keeps_rows_that_have_no_token(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1, rows=8)
    save(tmp_path / "a", SHARED, 2, ("<x>",), rows=6)
    result, _ = merged(tmp_path, "base", ["a"])
    expected = table(SHARED, 2, 8)
    expected[[4, 6, 7]] = table(SHARED, 1, 8)[[4, 6, 7]]  # 4 is <x> there, and 6 and 7 do not exist
    check(result, expected, 2)


def test_pad_has_as_many_rows_as_the_largest_and_moves_none(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, ("<x>",))
    save(tmp_path / "b", SHARED, 4, ("<x>", "<y>"))
    result, told = merged(tmp_path, "pad", ["a", "b"])
    long = [*SHARED, "<x>", "<y>"]
    expected = table(long, 2) + table(long, 4) - table(long, 1)
    expected[4] = table(long, 4)[4]  # base and a have a's row, b its own
    expected[5] = table(long, 4)[5]  # all have b's row
    assert result["embed"].tolist() == expected.tolist()
    assert vocab_size(tmp_path / "out") == 6
    assert told == []


def test_pad_takes_rows_of_the_base_where_a_model_is_shorter(tmp_path: Path) -> None:
    save(tmp_path / "base", [*SHARED, "down"], 1)
    save(tmp_path / "a", SHARED, 2)
    result, _ = merged(tmp_path, "pad", ["a"])
    expected = table([*SHARED, "down"], 2)
    expected[4] = table(["down"], 1)[0]
    check(result, expected, 2)
    assert vocab_size(tmp_path / "out") == 5


def test_union_has_the_tokens_of_all_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1, ("<s>",))
    save(tmp_path / "a", [*SHARED, "dog"], 2, ("<x>", "<y>"))
    save(tmp_path / "b", ["cat", "[UNK]", "sat", "the"], 4, ("<y>", "<z>"))
    result, told = merged(tmp_path, "union", ["a", "b"])
    every = [*SHARED, "<s>", "dog", "<x>", "<y>", "<z>"]
    base, a, b = (table(every, scale) for scale in (1, 2, 4))
    assert result["embed"][:4].tolist() == (a + b - base)[:4].tolist()
    assert result["embed"][4].tolist() == base[4].tolist(), "only the base has it"
    assert result["embed"][5:7].tolist() == a[5:7].tolist(), "only a has them"
    assert result["embed"][7].tolist() == b[7].tolist(), "base and a have a's row, b its own"
    assert result["embed"][8].tolist() == b[8].tolist(), "only b has it"
    assert vocab_size(tmp_path / "out") == 9
    assert told == [
        "vocabulary: union: 1 new tokens are parts of words in a model's own vocabulary; the output's tokenizer finds "
        "them only as they are spelled: 'dog'"
    ]
    found = find_vocabulary(tmp_path / "out")
    assert found is not None
    assert dict(found.read().ids) == {token: i for i, token in enumerate(every)}


def test_union_uses_rows_that_had_no_token(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1, rows=8)
    save(tmp_path / "a", SHARED, 2, ("<x>",), rows=6)
    result, _ = merged(tmp_path, "union", ["a"])
    expected = table([*SHARED, "<x>"], 2, 8)
    expected[6:] = table(SHARED, 1, 8)[6:]
    check(result, expected, 2)
    assert vocab_size(tmp_path / "out") == 8


def test_the_tokenizer_of_a_union_loads_and_finds_new_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, ("<x>", "<y>"))
    save(tmp_path / "b", SHARED, 2, ("<z>", "<x>"))
    merged(tmp_path, "union", ["a", "b"])
    loaded = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert loaded.encode("the<z> cat <y>").ids == [1, 6, 2, 5]
    assert loaded.decode([1, 4]) == "the", "<x> stays special"


def test_inputs_without_a_folder_are_padded_by_position() -> None:
    base = {"embed": np.ones((3, 2)), "body": np.ones((4, 4))}
    tuned = {"embed": np.full((5, 2), 2.0), "body": np.ones((4, 4))}
    recipe = {"method": "task_arithmetic", "base": base, "models": [tuned], "vocabulary": "pad"}
    assert in_tiles({**recipe, "parameters": {"scale": 1}}, 0)["embed"] == np.full((5, 2), 2.0).tobytes()


def test_a_policy_changes_nothing_where_vocabularies_agree(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2)
    for policy in ("base", "pad", "union", None):
        recipe = {"method": "linear", "base": "base", "models": ["a"], "vocabulary": policy, "folder": tmp_path}
        with_policy = open_inputs(make_recipe(recipe))
        assert not any(isinstance(checkpoint, Rows) for _, checkpoint in with_policy.all())
        assert with_policy.notes == ()
        with_policy.close()


def test_a_fisher_follows_the_rows_of_its_model_and_knows_nothing_of_lent_ones(tmp_path: Path) -> None:
    save(tmp_path / "a", SHARED, 2)
    save(tmp_path / "b", ["[UNK]", "cat", "the", "sat"], 4, ("<x>",))
    sizes = {"a": ([1.0, 2.0, 3.0, 4.0], "a.safetensors"), "b": ([5.0, 6.0, 7.0, 8.0, 9.0], "b.safetensors")}
    for rows, file in sizes.values():
        of_rows = np.repeat(np.array(rows, np.float32)[:, None], WIDTH, 1)
        fisher = {
            "embed": of_rows,
            "head": of_rows,
            "head.bias": of_rows[:, 0],
            "body": np.ones((2, WIDTH), np.float32),
        }
        save_file({name: np.ascontiguousarray(t) for name, t in fisher.items()}, tmp_path / file)
    recipe = {"method": "fisher", "models": ["a", "b"], "vocabulary": "union", "folder": tmp_path}
    fisher = {"a": "a.safetensors", "b": "b.safetensors"}
    weft.merge_to({**recipe, "parameters": {"fisher": fisher, "normalize": False}}, tmp_path / "out")
    embed = load_file(tmp_path / "out" / "model.safetensors")["embed"]
    a, b = (table([*SHARED, "<x>"], scale) for scale in (2, 4))
    expected = [
        (a[0] + 5 * b[0]) / 6,
        (2 * a[1] + 7 * b[1]) / 9,
        (3 * a[2] + 6 * b[2]) / 9,
        (a[3] + 2 * b[3]) / 3,
        b[4],
    ]
    np.testing.assert_allclose(embed, np.stack(expected), rtol=1e-6)


# ------------------------------------------------------------------------------------------- tied, formats, tiles


def in_tiles(recipe: dict[str, Any], tile: int, workers: int = 1) -> dict[str, bytes]:
    inputs = open_inputs(make_recipe(recipe))
    plan = make_plan(make_recipe(recipe), inputs)
    sink = MemorySink(plan.outputs, {}, as_torch=False)
    execute(plan, budget(Settings(workers=workers, tile=tile), plan.items), sink, Progress())
    inputs.close()
    return as_bytes(sink.tensors())


@pytest.mark.parametrize("policy", ["base", "pad", "union"])
@pytest.mark.parametrize("method", ["ties", "linear"])
def test_tile_sizes_and_workers_change_nothing(tmp_path: Path, policy: str, method: str) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(700)]
    sizes = {"base": 650, "a": 700, "b": 640}
    for name, size in sizes.items():
        folder = tmp_path / name
        folder.mkdir()
        own = [*words[:300], *rng.permutation(words[300:size]).tolist()]
        tensors = {n: rng.standard_normal((size, 211)).astype(ml_dtypes.bfloat16) for n in ("embed", "head")}
        tensors = {n: t.astype(np.float16) if name == "b" else t for n, t in tensors.items()}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(own)))
    recipe = {"method": method, "base": "base", "models": ["a", "b"], "vocabulary": policy, "folder": tmp_path}
    whole = in_tiles(recipe, 1 << 22)
    assert len(whole["embed"]) == {"base": 650, "pad": 700, "union": 700}[policy] * 211 * 2, "bfloat16, as the base"
    for tile, workers in ((BLOCK, 1), (2 * BLOCK, 3), (0, 2)):
        assert in_tiles(recipe, tile, workers) == whole


@pytest.mark.parametrize("policy", ["base", "pad", "union"])
def test_tied_embeddings_stay_tied_on_disk(tmp_path: Path, policy: str) -> None:
    for name, tokens, scale in (("base", SHARED, 1), ("a", [*SHARED, "<x>"], 2)):
        values = table(tokens, scale)
        save(tmp_path / name, tokens, scale, more={"embed": values, "head": values.copy()})
    made = make_plan(
        recipe := make_recipe(
            {"method": "ties", "base": "base", "models": ["a"], "vocabulary": policy, "folder": tmp_path}
        ),
        open_inputs(recipe),
    )
    assert [work.aliases for work in made.works if work.spec.name == "embed"] == [("head",)]


@pytest.mark.parametrize("policy", ["base", "pad", "union"])
def test_a_head_that_was_left_out_because_it_is_tied(tmp_path: Path, policy: str) -> None:
    values = table(SHARED, 1)
    save(tmp_path / "base", SHARED, 1, more={"head": values})
    save(tmp_path / "a", SHARED, 2, ("<x>",))
    kept = load_file(tmp_path / "a" / "model.safetensors")
    del kept["head"]
    save_file(kept, tmp_path / "a" / "model.safetensors")
    result, _ = merged(tmp_path, policy, ["a"])
    count = 4 if policy == "base" else 5
    assert result["head"].tolist() == result["embed"].tolist() == table([*SHARED, "<x>"], 2)[:count].tolist()


def test_tied_tensors_in_memory_stay_one() -> None:
    def model(rows: int, scale: float) -> dict[str, np.ndarray]:
        embed = np.full((rows, 2), float(scale))
        return {"embed": embed, "head": embed}

    recipe = {"method": "linear", "base": model(3, 1), "models": [model(5, 2)], "vocabulary": "pad"}
    inputs = open_inputs(made := make_recipe(recipe))
    assert [work.aliases for work in make_plan(made, inputs).works] == [("head",)]


def test_formats_are_those_of_the_base(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1, dtype=ml_dtypes.bfloat16)
    save(tmp_path / "a", SHARED, 2, ("<x>",), dtype=np.float16)
    result, _ = merged(tmp_path, "union", ["a"])
    assert {t.dtype for t in result.values()} == {np.dtype(ml_dtypes.bfloat16)}
    exact = table([*SHARED, "<x>"], 2).astype(np.float16).astype(np.float32)
    assert result["embed"][4].tolist() == exact[4].astype(ml_dtypes.bfloat16).tolist()


# ---------------------------------------------------------------------------------------------- what is said


def said(folder: Path, models: list[str], **options: Any) -> str:
    with pytest.raises(weft.InputError) as caught:
        merged(folder, options.pop("policy", None), models, **options)
    return str(caught.value)


def test_without_a_policy_one_problem_says_everything(tmp_path: Path) -> None:
    save(tmp_path / "base", [*SHARED, "down"], 1)
    save(tmp_path / "a", ["[UNK]", "cat", "the", "sat", "dog"], 2, ("<x>", "<y>"))
    message = said(tmp_path, ["a"])
    assert message == (
        f"the vocabularies differ in their numbers of rows, in 'embed', 'head', 'head.bias': base ({tmp_path}/base) "
        f"has 5, model 'a' ({tmp_path}/a) has 7; 3 tokens are only in model 'a': 'dog', '<x>', '<y>'; "
        "1 token is only in base, not in model 'a': 'down'; "
        "2 tokens have other ids in model 'a': 'cat' (2, 1), 'the' (1, 2)\n"
        "  -> choose `vocabulary: base` (the base's tokens and rows), `pad` (rows stay where they are; as many as the "
        "largest input has) or `union` (the tokens of all inputs); or add a rule with `use:` for these tensors"
    )
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, ("<x>",))
    (tmp_path / "a" / "tokenizer.json").write_text("[]")
    assert "no vocabulary can be read of model 'a'" in said(tmp_path, ["a"])
    assert "tokenizer.json: is not a vocabulary" in said(tmp_path, ["a"], policy="union")


def test_rules_may_settle_it(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, ("<x>",))
    result, _ = merged(tmp_path, None, ["a"], rules=[{"match": ["embed", "head*"], "use": "base"}])
    assert result["embed"].tolist() == table(SHARED, 1).tolist()


def test_other_shapes_are_told_as_before(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, more={"body": np.ones((7, WIDTH))})
    for policy in (None, "base", "pad"):
        assert "tensor 'body' has shape [2, 3] in base but [7, 3] in model 'a'" in said(tmp_path, ["a"], policy=policy)


@pytest.mark.parametrize("policy", [None, "pad"])
def test_rows_of_different_tokens_are_warned_of(tmp_path: Path, policy: str | None) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", ["[UNK]", "the", "dog", "ran"], 2)
    _, told = merged(tmp_path, policy, ["a"])
    assert told == [
        "2 rows of the vocabulary belong to different tokens and are merged with each other: 2 is 'cat' in base but "
        "'dog' in model 'a', 3 is 'sat' in base but 'ran' in model 'a'; `vocabulary: base` or `vocabulary: union` "
        "matches tokens by name"
    ]


def test_union_needs_tokenizers_that_can_be_added_to(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1)
    save(tmp_path / "a", SHARED, 2, ("<x>",))
    (tmp_path / "a" / "tokenizer.json").unlink()
    (tmp_path / "a" / "vocab.txt").write_text("\n".join([*SHARED, "<x>"]))
    message = said(tmp_path, ["a"], policy="union")
    assert f"needs the tokenizer.json of every input, but model 'a' ({tmp_path}/a) has only vocab.txt" in message
    gaps = tokenizer_json(SHARED, {"<s>": {}})
    gaps["added_tokens"][0]["id"] = 7
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps(gaps))
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(tokenizer_json(SHARED)))
    assert "have gaps, so that no token can be appended" in said(tmp_path, ["a"], policy="union")


def test_rows_that_may_not_be_tokens_are_not_moved(tmp_path: Path) -> None:
    save(tmp_path / "base", SHARED, 1, more={"square": np.ones((4, 4))})
    save(tmp_path / "a", ["[UNK]", "cat", "the", "sat"], 2, more={"square": np.ones((4, 4))})
    message = said(tmp_path, ["a"], policy="base")
    assert "tensor 'square' has 4 rows, the size of the vocabulary but also of other dimensions" in message


def test_a_model_without_a_vocabulary_is_told(tmp_path: Path) -> None:
    recipe = make_recipe({"method": "linear", "models": [{"w": np.ones(2)}], "vocabulary": "pad"})
    assert open_inputs(recipe).notes == ("vocabulary: pad: no tensor was recognised as having a row for each token",)


# -------------------------------------------------------------------------------------------------- the parts


@drawing(deadline=None)
@given(data=st.data())
def test_any_partition_gives_the_same_bytes(data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    formats = data.draw(
        st.sampled_from([(np.float32,) * 2, (np.float16, ml_dtypes.bfloat16), (np.float16, np.float64)])
    )
    columns = data.draw(st.sampled_from([(), (1,), (5,)]))
    stores = [rng.standard_normal((rows, *columns)).astype(f) for rows, f in zip((4, 6), formats, strict=True)]
    sources = tuple((InMemory({"t": store}, "x"), "t") for store in stores)
    picks = data.draw(st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 3)), min_size=1, max_size=12))
    origin, row = (np.array(column) for column in zip(*picks, strict=True))
    rows = Rows(sources[0][0], {"t": RowMap(sources, origin, row)})
    wanted = [np.zeros(columns) if k < 0 else stores[k][i].astype(np.float64) for k, i in picks]
    spec = rows.tensors["t"]
    assert spec.shape == (len(picks), *columns)
    cuts = sorted(data.draw(st.sets(st.integers(0, spec.size), max_size=5)) | {0, spec.size})
    pieces = [
        rows.read("t", a, b, np.empty((b - a) * spec.dtype.itemsize + 3, np.uint8)[: (b - a) * spec.dtype.itemsize])
        for a, b in pairwise(cuts)
    ]
    flat = np.concatenate(pieces)
    assert flat.dtype == spec.dtype.storage
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}.get(spec.dtype.name, spec.dtype.storage)
    assert flat.view(kind).astype(np.float64).tolist() == np.stack(wanted).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"tokenizer.json": {"model": {"type": "BPE", "vocab": {"b": 1, "a": 0}, "merges": []}}}, {"a": 0, "b": 1}),
        (
            {"tokenizer.json": {"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5]]}}},
            {"<unk>": 0, "▁a": 1},
        ),
        (
            {
                "tokenizer.json": {
                    "model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "##a": 1}},
                    "added_tokens": [{"id": 0, "content": "[PAD]"}, {"id": 2, "content": "<x>"}],
                }
            },
            {"[PAD]": 0, "##a": 1, "<x>": 2},
        ),
        ({"vocab.json": {"a": 0}, "added_tokens.json": {"<x>": 1}}, {"a": 0, "<x>": 1}),
        ({"vocab.txt": "a\nb\r\n\u2028\n", "added_tokens.json": {"<x>": 3}}, {"a": 0, "b": 1, "\u2028": 2, "<x>": 3}),
        ({"vocab.json": {"eng": {"a": 0}, "deu": {"b": 0}}}, {}),
    ],
)
def test_vocabularies_are_read_from_every_kind_of_file(
    tmp_path: Path, files: dict[str, Any], ids: dict[str, int]
) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_bytes(text.encode())
    found = find_vocabulary(tmp_path)
    assert found is not None
    assert dict(found.read().ids) == ids


@pytest.mark.parametrize("content", ["{", "[]", '{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": {"a": -1}}}'])
def test_a_damaged_vocabulary_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    found = find_vocabulary(tmp_path)
    assert found is not None
    with pytest.raises(weft.InputError, match=r"tokenizer\.json: is not a vocabulary"):
        found.read()


# ------------------------------------------------------------------------------------------------ a real model


def llama(folder: Path, seed: int, added: list[str], tied: bool) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *"abcdefgh", "ab", "cd"]
    bpe = models.BPE({w: i for i, w in enumerate(words)}, [("a", "b"), ("c", "d")], unk_token="<unk>")
    raw = Tokenizer(bpe)
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.add_tokens(added, special_tokens=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_llama_encodes_new_tokens_to_the_right_rows(tmp_path: Path, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for seed, (name, added) in enumerate({"base": [], "a": ["<x>", "<y>"], "b": ["<z>", "<x>"]}.items()):
        llama(tmp_path / name, seed, added, tied)
    recipe = {"method": "linear", "models": ["a", "b"], "base": "base", "vocabulary": "union", "folder": tmp_path}
    weft.merge_to(recipe, tmp_path / "out")
    parents = {n: AutoModelForCausalLM.from_pretrained(tmp_path / n) for n in ("base", "a", "b", "out")}
    tokenizers = {n: AutoTokenizer.from_pretrained(tmp_path / n) for n in ("base", "a", "b", "out")}
    assert parents["out"].config.vocab_size == len(tokenizers["out"]) == len(tokenizers["base"]) + 3
    assert tokenizers["out"].eos_token == "</s>"

    def row(name: str, token: str) -> torch.Tensor:
        (place,) = tokenizers[name].encode(token, add_special_tokens=False)
        return parents[name].get_output_embeddings().weight[place]

    for token in ("ab", "<x>"):
        torch.testing.assert_close(row("out", token), (row("a", token) + row("b", token)) / 2)
    torch.testing.assert_close(row("out", "<y>"), row("a", "<y>"))
    torch.testing.assert_close(row("out", "<z>"), row("b", "<z>"))
    assert tokenizers["out"].decode(tokenizers["out"].encode("ab<z>"), skip_special_tokens=True).strip() == "ab"


def test_an_adapter_brings_its_own_tokenizer(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llama(tmp_path / "base", 0, [], tied=False)
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "base") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )  # the usual way to teach an adapter new tokens
    tokenizer.add_tokens(["<x>", "<y>"], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    tokenizer.save_pretrained(tmp_path / "lora")
    models = [{"path": "base", "adapter": "lora"}]
    recipe = {"method": "task_arithmetic", "base": "base", "models": models, "folder": tmp_path}
    weft.merge_to({**recipe, "parameters": {"scale": 1.0}, "vocabulary": "union"}, tmp_path / "out")
    expected = model.get_output_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(
        load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], expected, rtol=0, atol=1e-7
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("<y>", add_special_tokens=False) == [14]
    assert "2 tokens are only in model 'lora': '<x>', '<y>'" in said(tmp_path, models)
