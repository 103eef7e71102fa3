"""How many examples go into a batch: as many as are worth it, and as fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from weft.errors import InputError

MOST_EXAMPLES = 32
"""Beyond, a batch gets no faster."""
_PER_TOKEN = 160
"""Bytes of activations and gradients that a layer keeps for each token and each number of its width."""
_PER_SCORE = 16
"""Bytes for each pair of tokens and attention head of a layer, and for each word that a token could be."""


def chosen_room(module: Any, asked: int | None, *, device: str, longest: int, is_text: bool) -> tuple[int, int]:
    """Examples and tokens of a batch at most.

    Args:
        module: the model.
        asked: examples, if someone asked for a number.
        device: where it is run, as torch calls it.
        longest: tokens of the longest example.
        is_text: whether examples are text; else images.

    Raises:
        InputError: if less than one was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise InputError(f"--batch-size {asked}: that is no example", "ask for 1 or more, or leave it out")
        return asked, asked * longest
    per_example = 8 * max(parameter.numel() for parameter in module.parameters())  # squares of one layer's gradient
    per_token = _token_bytes(module.config, longest)
    tokens = longest if is_text else _patches(module.config)
    each = per_example + per_token * tokens
    fitting = int(max(_free(device) // 2 - 12 * _size(module), 0) // each)
    most = min(max(fitting, 1), MOST_EXAMPLES)
    return most, most * longest


def planned(lengths: Sequence[int], room: tuple[int, int], first: int = 0) -> list[tuple[int, int]]:
    """Batches as ranges of examples: each as many as the room allows.

    Args:
        lengths: tokens of each example, in descending order.
        room: examples and tokens at most. Where examples are short, more of them go into a batch.
        first: from which example on.

    Example:
        >>> planned([4, 4, 2, 2, 2, 1], (2, 8))
        [(0, 2), (2, 4), (4, 6)]
        >>> planned([9, 1, 1], (2, 8))
        [(0, 1), (1, 3)]
    """
    examples, tokens = room
    batches = []
    while first < len(lengths):
        count = max(min(examples, tokens // lengths[first]), 1)
        batches.append((first, min(first + count, len(lengths))))
        first = batches[-1][1]
    return batches


def _token_bytes(config: Any, longest: int) -> int:
    """An estimate of what a token takes while gradients are computed."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = _figure(text, "num_hidden_layers", "num_layers", "n_layer") or 12
    width = _figure(text, "hidden_size", "d_model", "n_embd") or 1024
    heads = _figure(text, "num_attention_heads", "num_heads", "n_head") or 16
    words = _figure(text, "vocab_size") or 0
    return layers * (_PER_TOKEN * width + _PER_SCORE * heads * longest) + _PER_SCORE * words


def _patches(config: Any) -> int:
    size, patch = _figure(config, "image_size") or 224, _figure(config, "patch_size") or 16
    return (size // patch) ** 2 + 1


def _figure(config: Any, *names: str) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((n for n in found if isinstance(n, int)), 0)


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _free(device: str) -> int:
    """Bytes of memory that nobody uses."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as told:
        return next(int(line.split()[1]) << 10 for line in told if line.startswith("MemAvailable"))
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 4 << 30
