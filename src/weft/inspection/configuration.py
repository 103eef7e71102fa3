"""Does `config.json` describe these tensors? Only what it states is checked; there is no table of architectures.

What the main part of a config states is binding. Parts for towers (`text_config`, `vision_config`) state the same keys
for different tensors, so there a number that fits none of them is only a suspicion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weft.checkpoints.checkpoint import TensorSpec
from weft.errors import listed
from weft.inspection.findings import Finding, Level
from weft.inspection.subject import Subject
from weft.kernels.dtypes import BY_NAME, Kind

INPUT_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "shared.weight", "embed_in.weight",
    "tok_embeddings.weight", "token_embedding.weight", "word_embedding.weight", "tokens_embed.weight",
    "backbone.embeddings.weight",
)  # fmt: skip
OUTPUT_EMBEDDINGS = (
    "lm_head.weight", "embed_out.weight", "output_layer.weight", "predictions.decoder.weight",
    "lm_head.decoder.weight", "vocab_projector.weight",
)  # fmt: skip
_WIDTHS = (
    "hidden_size", "d_model", "n_embd", "n_embed", "dim", "embedding_size", "input_embedding_size",
    "output_embedding_size", "word_embed_proj_dim", "d_embed", "emb_dim", "embed_dim",
)  # fmt: skip
_INNER = ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "ffn_hidden_size")
_INNER_NAMES = ("up_proj.weight", "c_fc.weight", "intermediate.dense.weight", "wi.weight", "wi_0.weight", "fc1.weight")
_COPY = "copy config.json from the model that these tensors come from"


@dataclass(frozen=True)
class Stated:
    """A number in the config.

    Attributes:
        key: with the part that it stands in, `text_config.vocab_size`.
        value: what it says.
        nested: whether it stands in the part of one tower.
        beside: everything that stands in the same part.
    """

    key: str
    value: int
    nested: bool
    beside: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.key} {self.value}"


@dataclass(frozen=True)
class Rule:
    """Tensors of these names have, along this axis, the size that one of these keys states, or a little more."""

    what: str
    names: tuple[str, ...]
    axis: int
    keys: tuple[str, ...]
    slack: tuple[int, ...] = (0,)


RULES = (
    Rule("input embedding", INPUT_EMBEDDINGS, 0, ("vocab_size",)),
    Rule("output embedding", OUTPUT_EMBEDDINGS, 0, ("vocab_size",)),
    Rule("input embedding", INPUT_EMBEDDINGS, 1, _WIDTHS),
    Rule("output embedding", OUTPUT_EMBEDDINGS, 1, _WIDTHS),
    Rule("table of positions", ("wpe.weight", "position_embeddings.weight"), 0,
         ("max_position_embeddings", "n_positions", "n_ctx"), (0, 2)),
    Rule("table of token types", ("token_type_embeddings.weight",), 0, ("type_vocab_size",)),
)  # fmt: skip


def stated(config: Mapping[str, Any], keys: Iterable[str]) -> Iterator[Stated]:
    """Every number that the config gives for one of these keys, in its main part and in the towers' parts.

    Example:
        >>> [str(fact) for fact in stated({"dim": 2, "text_config": {"dim": 4}}, ["dim"])]
        ['dim 2', 'text_config.dim 4']
    """
    keys = tuple(keys)
    for prefix, part in _parts(config):
        for key in keys:
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                yield Stated(prefix + key, value, bool(prefix), part)


def _parts(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield prefix, config
    for key, value in config.items():
        is_tower = key.endswith("_config") and key != "quantization_config"
        if isinstance(value, dict) and (is_tower or key in ("encoder", "decoder")) and prefix.count(".") < 3:
            yield from _parts(value, f"{prefix}{key}.")


def called(tensors: Mapping[str, TensorSpec], names: Iterable[str]) -> list[TensorSpec]:
    """The tensors whose name is, or ends in, one of these, from a dot on."""
    endings = tuple(f".{name}" for name in names)
    return [spec for name, spec in tensors.items() if f".{name}".endswith(endings)]


def shapes_stated(subject: Subject) -> Iterator[Finding]:
    """Embeddings, tables of positions and of types have the sizes that the config states."""
    if not any(stated(subject.config, ["vocab_size"])):
        return
    for rule in RULES:
        facts = list(stated(subject.config, rule.keys))
        allowed = {fact.value + more for fact in facts for more in rule.slack}
        specs = [spec for spec in called(subject.tensors, rule.names) if len(spec.shape) == 2]
        if facts and specs and not any(spec.shape[rule.axis] in allowed for spec in specs):
            yield _misfit(subject, rule, specs[0], facts)


def _misfit(subject: Subject, rule: Rule, spec: TensorSpec, facts: list[Stated]) -> Finding:
    size, side = spec.shape[rule.axis], "rows" if rule.axis == 0 else "columns"
    level: Level = "warning" if any(fact.nested for fact in facts) and size >= facts[0].value else "error"
    what = f"{subject.file_of(spec.name)}: the {rule.what} {spec.name!r} {list(spec.shape)} has {size} {side}"
    return Finding(level, "config", f"{what}, config.json says {listed(map(str, facts))}", _COPY)


def sizes_occur(subject: Subject) -> Iterator[Finding]:
    """The main sizes that the config of a language model states are sizes of some tensor."""
    if not subject.tensors or subject.config.get("quantization_config") or "vocab_size" not in subject.config:
        return
    sizes = {size for spec in subject.tensors.values() for size in spec.shape}
    has_experts = any("expert" in key for key in subject.config)  # where every layer has some, none may be dense
    keys = ("hidden_size", "d_model", "n_embd", *(() if has_experts else _INNER))
    embeds = is_language_model(subject.config) and not called(subject.tensors, INPUT_EMBEDDINGS)  # by no known name
    for fact in stated(subject.config, ("vocab_size", *keys) if embeds else keys):
        fused = fact.key in _INNER and {2 * fact.value, fact.value // 2} & sizes
        if not fact.nested and fact.value > 0 and fact.value not in sizes and not fused:
            certain = fact.key not in _INNER or called(subject.tensors, _INNER_NAMES)
            what = f"{subject.path}: config.json says {fact}, but no tensor has that size along any axis"
            yield Finding("error" if certain else "warning", "config", what, _COPY)


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Whether the config names a class that predicts the next token, and so has an embedding and a head.

    Example:
        >>> is_language_model({"architectures": ["LlamaForCausalLM"]})
        True
    """
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def heads_fit(subject: Subject) -> Iterator[Finding]:
    """Where queries are as wide as the config's heads, keys are as wide as its heads for keys and values."""
    config = subject.config
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    width, size = config.get("head_dim"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(groups, int) or not isinstance(size, int):
        return
    width = width if isinstance(width, int) else size // max(heads, 1)
    misfits = []
    for spec in called(subject.tensors, ["k_proj.weight"]):
        queries = subject.tensors.get(f"{spec.name.removesuffix('k_proj.weight')}q_proj.weight")
        if queries and queries.shape[:1] == (heads * width,):
            if spec.shape[:1] == (groups * width,):
                return  # where some layers fit, the others are of another kind
            misfits.append(spec)
    for spec in misfits[:1]:
        what = f"{subject.file_of(spec.name)}: {spec.name!r} {list(spec.shape)} has {spec.shape[0]} rows"
        what += f", config.json says num_key_value_heads {groups} of {width}: {groups * width} rows"
        yield Finding("error", "config", what, _COPY)


def labels_fit(subject: Subject) -> Iterator[Finding]:
    """A classifier has as many rows as the config has labels."""
    labels, architectures = subject.config.get("id2label"), str(subject.config.get("architectures"))
    if not isinstance(labels, dict) or "MultipleChoice" in architectures:
        return
    for spec in called(subject.tensors, ("classifier.weight", "score.weight", "classifier.out_proj.weight")):
        is_head = spec.name.count(".") <= 2  # deeper down it is a router, or belongs to a part of the model
        if is_head and len(spec.shape) >= 2 and spec.shape[0] != len(labels):
            what = f"{subject.file_of(spec.name)}: the classifier {spec.name!r} {list(spec.shape)} has {spec.shape[0]}"
            what += f" rows, config.json has {len(labels)} labels in id2label"
            yield Finding("error", "config", what, "copy config.json from the model that the classifier comes from")


def format_stated(subject: Subject) -> Iterator[Finding]:
    """The number format that the config states is that of most of the weights."""
    told = str(subject.config.get("dtype") or subject.config.get("torch_dtype")).removeprefix("torch.")
    stored: Counter[str] = Counter()
    for spec in subject.tensors.values():
        if spec.dtype.kind is Kind.FLOAT:
            stored[spec.dtype.name] += spec.nbytes
    if not stored or told not in BY_NAME or subject.config.get("quantization_config"):
        return
    name, count = stored.most_common(1)[0]
    if name != told and stored[told] < count:
        share = count / stored.total()
        what = f"{subject.path}: config.json says dtype {told}, but {share:.0%} of the weights' bytes are {name}"
        yield Finding("warning", "config", what, f'write "dtype": "{name}" into config.json')


def quantisation_meant(subject: Subject) -> Iterator[Finding]:
    """Weights that the config calls quantised are."""
    told = subject.config.get("quantization_config")
    method = str(told.get("quant_method")).lower() if isinstance(told, dict) else ""
    formats = {spec.dtype.name for spec in subject.tensors.values() if len(spec.shape) >= 2}
    plain = bool(formats) and all(BY_NAME[name].kind is Kind.FLOAT and "float8" not in name for name in formats)
    if plain and method in ("fp8", "fbgemm_fp8", "gptq", "awq", "compressed-tensors"):
        what = f"{subject.path}: config.json says that the weights are quantised with {method}"
        what += f", but all are {listed(sorted(formats))}"
        yield Finding("error", "config", what, "remove quantization_config from config.json")
