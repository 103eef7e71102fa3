"""Heads that nobody trained: CLIP's own sentences about the classes, as one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError
from weft.evaluation.models import Device, Model, open_model


def write_zero_shot_head(
    clip: Path | Model, classes: Sequence[str], templates: Sequence[str], output: Path, device: Device | None = None
) -> Path:
    """Turn classes' names into a head for image embeddings of length 1.

    A class's row is the mean of its sentences' embeddings, each of length 1, brought to length 1 again, and times
    CLIP's temperature: on embeddings of length 1 the head gives the logits that CLIP itself gives.

    Args:
        clip: the folder of a whole CLIP, text encoder and tokenizer included, or such a model, opened.
        classes: names, in the order of the labels.
        templates: sentences, with `{}` where the name goes.
        output: the `.safetensors` file to write: `weight`, classes x width of the embedding.
        device: where to compute.

    Returns:
        The file.

    Raises:
        InputError: if the model has no text encoder, or no tokenizer.

    Source: Radford et al. 2021, *Learning Transferable Visual Models From Natural Language Supervision*
    (arXiv 2103.00020), section 3.1.4.
    """
    model = clip if isinstance(clip, Model) else open_model(clip, device or Device())
    _check(model)
    torch = import_module("torch")
    with model.device.computing():
        rows = [_embedding(model, [template.format(name) for template in templates]) for name in classes]
        weight = torch.stack(rows) * model.loaded.model.logit_scale.float().exp()
    output.parent.mkdir(parents=True, exist_ok=True)
    import_module("safetensors.torch").save_file({"weight": weight.cpu().contiguous()}, output)
    return output


def _check(model: Model) -> None:
    if not hasattr(model.loaded.model, "get_text_features"):
        kind = type(model.loaded.model).__name__
        what = f"{model.path}: {kind} embeds no text, so classes' names make no head for it"
        raise InputError(what, "name the folder of a whole CLIP model, with both encoders")
    model.check_written(model.loaded.missing, "a whole CLIP model")


def _embedding(model: Model, sentences: list[str]) -> Any:
    """The direction in which a class lies."""
    longest = int(model.loaded.model.config.text_config.max_position_embeddings)
    tokens = model.tokenizer(sentences, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    known = {name: tokens[name].to(model.device.name) for name in ("input_ids", "attention_mask")}
    made = model.loaded.model.get_text_features(**known)
    states = getattr(made, "pooler_output", made).float()  # newer versions of transformers wrap the features up
    normalize = import_module("torch").nn.functional.normalize
    return normalize(normalize(states).mean(0), dim=0)
