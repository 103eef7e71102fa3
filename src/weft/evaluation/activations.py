"""(IA)3: vectors that scale a model's activations, multiplied into its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed
from weft.evaluation.models import Device, open_model

_VECTOR = re.compile(r"(?:transformer\.|base_model\.model\.)?(?P<layer>.+?)\.(?:ia3_vector|ia3_l(?:\.\w+)?)")
"""As the paper's own code calls them, and as peft does."""


def layer_of(name: str) -> str | None:
    """The layer that a vector scales; None for what is no such vector.

    Example:
        >>> layer_of("transformer.encoder.block.0.layer.0.SelfAttention.k.ia3_vector")
        'encoder.block.0.layer.0.SelfAttention.k'
        >>> layer_of("base_model.model.decoder.block.1.layer.2.DenseReluDense.wo.ia3_l")
        'decoder.block.1.layer.2.DenseReluDense.wo'
    """
    match = _VECTOR.fullmatch(name)
    return match["layer"] if match else None


def fold_vectors(base: Path, vectors: Mapping[str, Any], output: Path, where: str = "") -> Path:
    """Write the model that computes what a base does whose activations are scaled.

    A vector of n numbers, or n x 1, scales what a layer gives: row i of its weight, and its bias, times v_i. One that
    is 1 x n, as peft has it for feed-forward layers, scales what a layer is given: column j of its weight times v_j.

    Args:
        base: a folder that transformers can load.
        vectors: torch tensors by name.
        output: the folder to write.
        where: precedes every message.

    Returns:
        The folder.

    Raises:
        InputError: if there is no vector, or one is for a layer that the base does not have, or of another width.

    Source: Liu et al. 2022, *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*
    (arXiv 2205.05638), section 3.3.
    """
    model = open_model(base, Device())
    layers = dict(model.loaded.model.named_modules())
    known = {name: layer for name in vectors if (layer := layer_of(name)) is not None}
    if not known or len(known) != len(vectors):
        odd = [name for name in vectors if name not in known]
        what = f"{where}holds {'no (IA)3 vector' if not known else 'more than (IA)3 vectors'}: {listed(odd)}"
        raise InputError(what, "the names of vectors end in .ia3_vector or .ia3_l")
    lacking = [name for name, layer in known.items() if not hasattr(layers.get(layer), "weight")]
    if lacking:
        raise InputError(
            f"{where}{base} has no layer for {listed(lacking)}", "name the model that they were trained on"
        )
    with import_module("torch").no_grad():
        for name, layer in known.items():
            _scale(layers[layer], vectors[name], f"{where}{name}", base)
    model.loaded.model.save_pretrained(output)
    model.tokenizer.save_pretrained(output)
    return output


def _scale(layer: Any, vector: Any, name: str, base: Path) -> None:
    rows, columns = layer.weight.shape
    vector = vector.to(layer.weight.dtype)
    if list(vector.shape) == [1, columns] and columns != 1:
        layer.weight.mul_(vector)
        return
    if vector.numel() != rows or vector.shape[0] != rows:
        what = f"{name} has the shape {list(vector.shape)}, but the layer in {base} has a weight {[rows, columns]}"
        raise InputError(what, "name the model that the vectors were trained on")
    layer.weight.mul_(vector.reshape(-1, 1))
    if getattr(layer, "bias", None) is not None:
        layer.bias.mul_(vector.reshape(-1))
