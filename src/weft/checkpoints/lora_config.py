"""What `adapter_config.json` says of a LoRA adapter, and which adapters are not simply weights plus a product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from weft.checkpoints.patterns import Expression, ExpressionError
from weft.checkpoints.plain_files import read_json
from weft.errors import InputError, Problem, shown

CONFIG = "adapter_config.json"

MERGE_FIRST = "merge it first: load base and adapter with peft, call merge_and_unload() and save the result"

_UNSUPPORTED = {
    "use_qalora": "adapts pooled inputs",
    "use_bdlora": "stores block-diagonal factors",
    "kasa_config": "removes singular components from the base",
    "arrow_config": "routes between adapters for each token",
    "alora_invocation_tokens": "acts only after its invocation tokens and can never be merged",
    "layer_replication": "repeats layers of the base",
    "trainable_token_indices": "changes single rows of an embedding",
    "target_parameters": "adapts parameters that are not modules",
}
"""Options that make the adapted weight something else than the base plus a scaled product, and what they do."""

_MOST = 2**31
"""No rank and no alpha is near it."""

_TRAINING_ONLY = {"eva_config", "corda_config", "loftq_config", "lora_ga_config", "velora_config", "megatron_config",
                  "runtime_config", "monteclora_config", "use_rslora", "use_dora"}  # fmt: skip
"""Options that are read elsewhere, or only matter while an adapter is trained."""

_KEEPS_BASE = {"true", "false", "gaussian", "eva", "orthogonal", "mica"}
"""Initialisations that leave the base as it is; the others (pissa, olora, corda, loftq, lora_ga) subtract from it."""


@dataclass(frozen=True)
class Patterns:
    """Values for the modules whose names match, in the file's order.

    A pattern is a regular expression that fits a module's name from its beginning, or from after any dot, to its end.
    The first that fits decides.
    """

    entries: tuple[tuple[str, Expression, float], ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, float]) -> Patterns:
        """Compile them.

        Example:
            >>> Patterns.of({"v_proj": 16, "layers.[01].*": 8}).value("model.layers.0.q_proj", 4)
            8
        """
        return cls(
            tuple((text, Expression(rf"(?:.*\.)?(?:{text})", repr(text)), value) for text, value in given.items())
        )

    def value(self, module: str, default: float) -> float:
        """The value for a module; a pattern that is literally its name counts even if it does not fit as one."""
        fits = (value for _, pattern, value in self.entries if pattern.fits(module))
        same = (value for text, _, value in self.entries if text == module)
        return next(fits, next(same, default))


@dataclass(frozen=True)
class LoraConfig:
    """A LoRA adapter's configuration, as far as it decides numbers.

    Attributes:
        rank: r of all modules that no pattern names.
        alpha: lora_alpha, likewise.
        ranks, alphas: other values for some modules.
        root: whether the scale is alpha / sqrt(r) (rsLoRA) and not alpha / r.
        transposed: fan_in_fan_out: square weights are stored inputs by outputs.
        dora: whether the weights of every output have a learned length.
        saved: modules_to_save.
        keeps_ties: ensure_weight_tying: tensors that the base shares were trained as one.
    """

    rank: int
    alpha: float
    ranks: Patterns = Patterns()
    alphas: Patterns = Patterns()
    root: bool = False
    transposed: bool = False
    dora: bool = False
    saved: tuple[str, ...] = ()
    keeps_ties: bool = False

    def scaling_of(self, module: str) -> tuple[int, float]:
        """The rank of a module's factors, and what their product is multiplied by.

        Example:
            >>> LoraConfig(4, 8).scaling_of("layers.0.q_proj")
            (4, 2.0)
            >>> LoraConfig(4, 8, ranks=Patterns.of({"q_proj": 16}), root=True).scaling_of("layers.0.q_proj")
            (16, 2.0)
        """
        rank = int(self.ranks.value(module, self.rank))
        return rank, self.alphas.value(module, self.alpha) / (sqrt(rank) if self.root else rank)

    def is_saved(self, module: str) -> bool:
        """Whether a module, or one around it, was trained as a whole and replaces the base's."""
        return any(f".{name}." in f".{module}." for name in self.saved)


def read_config(path: Path) -> LoraConfig:
    """Read and check `adapter_config.json`.

    Raises:
        InputError: with everything in it that is wrong or not supported.
    """
    try:
        given: Any = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}", "download the adapter again") from None
    if not isinstance(given, dict) or not isinstance(given.get("peft_type"), str):
        raise InputError(f"{path}: does not say its peft_type", "name the folder of an adapter that peft saved")
    if given["peft_type"].upper() != "LORA":
        kind = shown(given["peft_type"])[1:-1]
        raise InputError(f"{path}: is a {kind} adapter; only LORA can be added on the fly", MERGE_FIRST)
    problems = [*_unsupported(given, path), *_malformed(given, path)]
    if problems:
        raise InputError(problems)
    return LoraConfig(
        rank=given["r"],
        alpha=given["lora_alpha"],
        ranks=Patterns.of(given.get("rank_pattern") or {}),
        alphas=Patterns.of(given.get("alpha_pattern") or {}),
        root=bool(given.get("use_rslora")),
        transposed=bool(given.get("fan_in_fan_out")),
        dora=bool(given.get("use_dora")),
        saved=tuple(given.get("modules_to_save") or ()),
        keeps_ties=bool(given.get("ensure_weight_tying")),
    )


def _unsupported(given: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    for option, does in _UNSUPPORTED.items():
        if given.get(option):
            yield Problem(f"{path}: {option} is set: such an adapter {does}", MERGE_FIRST)
    for option, value in given.items():
        is_variant = option.startswith("use_") or option.endswith("_config")
        if value and is_variant and option not in {*_UNSUPPORTED, *_TRAINING_ONLY}:
            yield Problem(f"{path}: {option} is set, which is a kind of LoRA that is not known here", MERGE_FIRST)
    start = str(given.get("init_lora_weights", True)).lower()
    if start not in _KEEPS_BASE:
        yield Problem(
            f"{path}: init_lora_weights is {shown(start)}: the adapter belongs to a base that this changed",
            f"{MERGE_FIRST}; or save the adapter with path_initial_model_for_weight_conversion",
        )


def _malformed(given: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    remedy = "download the adapter again"
    if not _is_rank(given.get("r")):
        yield Problem(f"{path}: r is {shown(given.get('r'))}, not a positive whole number", remedy)
    if not _is_number(given.get("lora_alpha")):
        yield Problem(f"{path}: lora_alpha is {shown(given.get('lora_alpha'))}, not a number", remedy)
    for option, fits in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        patterns = given.get(option) or {}
        if not isinstance(patterns, dict) or not all(map(fits, patterns.values())):
            yield Problem(f"{path}: {option} is {shown(patterns)}, not a map of module names to numbers", remedy)
        else:
            yield from _broken_patterns(patterns, f"{path}: {option}")
    saved = given.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        yield Problem(f"{path}: modules_to_save is {shown(saved)}, not a list of module names", remedy)


def _broken_patterns(patterns: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for pattern in patterns:
        try:
            Patterns.of({pattern: 0})
        except ExpressionError as error:
            yield Problem(f"{where}: {shown(pattern)} is not a regular expression: {error}", "mend the expression")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST < value < _MOST


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST
