"""Numbered layers: none left out, none that lacks what its siblings have, as many as the config says."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from weft.errors import listed
from weft.inspection.configuration import Stated, stated
from weft.inspection.findings import Finding, Level
from weft.inspection.subject import Subject

Layers = Mapping[int, frozenset[str]]
"""The tensors of each layer, named from behind the layer's number on."""

_COUNTS = (
    "num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layer", "n_layers",
)  # fmt: skip
_ALIKE = 0.75
"""The share of layers of one kind from which on a number that is missing is no design."""
_SHARED = "num_hidden_groups"
"""ALBERT's way to say that several layers are one set of tensors."""
_AHEAD = "num_nextn_predict_layers"
"""Layers that predict tokens further ahead are numbered on after the others and not counted."""


def stacks(names: Iterable[str]) -> dict[str, Layers]:
    """Numbered layers: for each prefix before a tensor name's first number, each layer's tensors.

    Example:
        >>> stacks(["h.0.w", "h.1.w", "h.1.b"]) == {"h.": {0: frozenset({"w"}), 1: frozenset({"w", "b"})}}
        True
    """
    found: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in names:
        pieces = name.split(".")
        place = next((i for i, piece in enumerate(pieces) if piece.isascii() and piece.isdecimal()), None)
        if place is not None and len(pieces[place]) < 7:
            prefix = "".join(f"{piece}." for piece in pieces[:place])
            found[prefix][int(pieces[place])].add(".".join(pieces[place + 1 :]))
    return {prefix: {k: frozenset(of) for k, of in layers.items()} for prefix, layers in found.items()}


def layers_alike(subject: Subject) -> Iterator[Finding]:
    """Layers are numbered without a gap, and none lacks what all its siblings have."""
    for prefix, layers in stacks(subject.tensors).items():
        if _are_blocks(layers):
            yield from _gaps(subject, prefix, layers)
            yield from _odd_ones(subject, prefix, layers)


def _are_blocks(layers: Layers) -> bool:
    """Whether these are layers of modules. In a plain sequence of modules numbers are missing where one has no weights.

    Example:
        >>> _are_blocks({0: frozenset({"weight"}), 2: frozenset({"weight"})})
        False
    """
    return len(layers) > 1 and all(any("." in name for name in names) for names in layers.values())


def _usual(layers: Layers) -> tuple[frozenset[str], float]:
    """What most layers hold, and the share of the layers that hold it."""
    ((usual, count),) = Counter(layers.values()).most_common(1)
    return usual, count / len(layers)


def _gaps(subject: Subject, prefix: str, layers: Layers) -> Iterator[Finding]:
    """Numbers without a layer, where the layers are alike or the config counts them."""
    gaps = [k for k in range(max(layers)) if k not in layers]
    counted = any(fact.value == max(layers) + 1 for fact in stated(subject.config, _COUNTS))
    if gaps and (counted or (len(layers) > 2 and _usual(layers)[1] >= _ALIKE)):
        what = f"{subject.path}: layers {prefix}N go up to {max(layers)}, without {listed(map(str, gaps))}"
        yield Finding("error", "layers", what, "find the shard or the damaged name, or number the layers anew")


def _odd_ones(subject: Subject, prefix: str, layers: Layers) -> Iterator[Finding]:
    """The one layer that has less than most. Where several have, the model is made of several kinds of layer."""
    usual, share = _usual(layers)
    kinds = Counter(layers.values())
    for number, names in sorted(layers.items()):
        missing, extra = sorted(usual - names), sorted(names - usual)
        if not missing or kinds[names] > 1 or len(layers) < 3 or share <= 0.5:
            continue
        what = f"{subject.path}: {prefix}{number} lacks {listed(map(repr, missing))}, "
        what += f"which {kinds[usual]} of {len(layers)} layers have"
        if not extra:
            # The first and the last layer often lack something on purpose.
            level: Level = "error" if min(layers) < number < max(layers) else "warning"
            yield Finding(level, "layers", what, "find the shard that holds it, or write the model again")
        elif len(missing) == len(extra) and all(get_close_matches(name, extra, 1, 0.85) for name in missing):
            what += f"; it has {listed(map(repr, extra))} instead"
            yield Finding("error", "layers", what, "the name is damaged: write the model again")


def layers_counted(subject: Subject) -> Iterator[Finding]:
    """The config's numbers of layers are those of the tensors."""
    found = stacks(subject.tensors).items()
    counts = {prefix: max(layers) + 1 for prefix, layers in found if _are_blocks(layers) or len(layers) == 1}
    tall = [prefix for prefix, count in counts.items() if count > 1]
    if counts and not subject.config.get(_SHARED):
        for fact in stated(subject.config, _COUNTS):
            if not _matched(fact, counts):
                seen = listed(f"{prefix}0 to {prefix}{count - 1}" for prefix, count in counts.items())
                what = f"{subject.path}: config.json says {fact}, the tensors are of layers {seen}"
                certain = "vocab_size" in subject.config and len(tall) < 2 and not fact.nested
                remedy = "the config is of another model, or layers are missing"
                yield Finding("error" if certain else "warning", "config", what, remedy)
    yield from _types_counted(subject)


def _matched(fact: Stated, counts: Mapping[str, int]) -> bool:
    """Whether some stack has that many layers; or what is counted is half of a model whose other half this is."""
    half = next((word for word in ("encoder", "decoder") if word in fact.key), "")
    ahead = fact.beside.get(_AHEAD)
    allowed = {fact.value, fact.value + ahead} if isinstance(ahead, int) else {fact.value}
    return bool(allowed & set(counts.values())) or not any(half in prefix for prefix in counts)


def _types_counted(subject: Subject) -> Iterator[Finding]:
    types, count = subject.config.get("layer_types"), subject.config.get("num_hidden_layers")
    if isinstance(types, list) and isinstance(count, int) and len(types) != count:
        what = f"{subject.path}: config.json lists {len(types)} layer_types, but says num_hidden_layers {count}"
        yield Finding("error", "config", what, "copy config.json from the base model")
