"""One model side by side in several variants, `model.safetensors` and `model.fp16.safetensors`: which one is meant?

The one without a variant, which every loader takes when it is not told otherwise; where there is none, the one that
holds the most digits. What is written has no variant in its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

STEMS = ("model", "pytorch_model", "diffusion_pytorch_model")
"""How the libraries that save models call their weights."""
_VARIANTS = ("", "fp32", "bf16", "fp16")
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}")
_FORMAT_WORDS = ("safetensors", "bin", "index", "json")


def variant_of(name: str) -> str:
    """The variant that a file of weights, a shard or an index states in its name; empty for the usual one.

    Example:
        >>> variant_of("model.fp16.safetensors"), variant_of("model.safetensors.index.fp16.json")
        ('fp16', 'fp16')
        >>> variant_of("model.fp16-00001-of-00002.safetensors"), variant_of("model.safetensors"), variant_of("v1.5.bin")
        ('fp16', '', '')
    """
    stem, *words = _SHARD.sub("", name).split(".")
    return ".".join(word for word in words if word not in _FORMAT_WORDS) if stem in STEMS else ""


def usual(paths: Iterable[Path]) -> Path | None:
    """Of indices and files, the one that goes by a usual name: without a variant, an index before a file.

    Args:
        paths: what could be meant.

    Returns:
        None if no name is usual, or if all that have one are variants and it is not clear which is meant.

    Example:
        >>> usual([Path("other.safetensors"), Path("model.fp16.safetensors"), Path("model.safetensors")])
        PosixPath('model.safetensors')
    """
    named = {path: _SHARD.sub("", path.name).partition(".")[0] in STEMS for path in paths}
    known = sorted((path for path, is_usual in named.items() if is_usual and not _SHARD.search(path.name)), key=_rank)
    if not known or not variant_of(known[0].name):
        return known[0] if known else None
    unknown = [path for path in known if _rank(path)[0] == len(_VARIANTS)]
    return known[0] if all(named.values()) and (len(unknown) < 2 or known[0] not in unknown) else None


def _rank(path: Path) -> tuple[int, int, bool]:
    variant = variant_of(path.name)
    known = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return known, STEMS.index(path.name.partition(".")[0]), not path.name.endswith(".json")
