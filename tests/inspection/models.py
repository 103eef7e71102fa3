"""A small model of the usual kind, written without transformers, and merges of three of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import weft
from weft.inspection.findings import Finding, Verdict
from weft.inspection.verify import verify

LAYERS, HIDDEN, INNER, VOCABULARY, HEADS, GROUPS = 4, 16, 24, 40, 4, 2

Tensors = dict[str, np.ndarray]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "hidden_size": HIDDEN,
    "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-6,
}  # fmt: skip


def shapes(tied: bool) -> dict[str, tuple[int, ...]]:
    wide = HIDDEN // HEADS * GROUPS
    layer = {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (wide, HIDDEN),
        "self_attn.v_proj.weight": (wide, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_proj.weight": (INNER, HIDDEN), "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER), "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }  # fmt: skip
    named = {f"model.layers.{k}.{name}": shape for k in range(LAYERS) for name, shape in layer.items()}
    named |= {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    return named if tied else {**named, "lm_head.weight": (VOCABULARY, HIDDEN)}


def tokenizer(tokens: int = VOCABULARY - 2) -> dict[str, Any]:
    words = {f"word{k}": k for k in range(tokens)}
    added = [{"id": tokens, "content": "<pad>"}, {"id": tokens + 1, "content": "<end>"}]
    return {"version": "1.0", "added_tokens": added, "model": {"type": "WordLevel", "vocab": words, "unk_token": "?"}}


def write(folder: Path, seed: int, tied: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tensors = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape).astype(np.float32) * 0.1
        for name, shape in shapes(tied).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    put(folder / "config.json", {**CONFIG, "tie_word_embeddings": tied})
    put(folder / "tokenizer.json", tokenizer())
    put(folder / "tokenizer_config.json", {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"})
    put(folder / "generation_config.json", {"eos_token_id": [2]})
    return folder


def merged(place: Path, tied: bool = False, shard_size: str = "1GB", name: str = "out", hashes: bool = False) -> Path:
    """A clean output; its parents lie beside it."""
    for k, parent in enumerate(("base", "a", "b")):
        if not (place / parent).exists():
            write(place / parent, k, tied)
    recipe = {
        "method": "ties",
        "base": str(place / "base"),
        "models": [str(place / "a"), str(place / "b")],
        "parameters": {"density": 0.5},
        "output": {"shard_size": shard_size},
    }
    weft.merge_to(recipe, place / name, hashes=hashes)
    return place / name


def put(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change(path: Path, **keys: object) -> None:
    """Set keys of a JSON file; None removes one."""
    parsed = json.loads(path.read_text()) | keys
    put(path, {key: value for key, value in parsed.items() if value is not None})


def rewrite(path: Path, edit: Callable[[Tensors], object]) -> None:
    """Edit the tensors of a file."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def header_length(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def told(verdict: Verdict, says: str, check: str = "", level: str = "") -> Finding:
    """The finding whose text holds this."""
    found = [f for f in verdict.findings if says in f.what and check in f.check and level in f.level]
    assert found, f"nothing says {says!r}:\n" + "\n".join(map(str, verdict.findings))
    assert found[0].remedy, "there is a remedy"
    return found[0]


def complains(path: Path, says: str, check: str = "", level: str = "error", **options: Any) -> Finding:
    """Inspect, and expect this."""
    return told(verify(path, workers=1, **options), says, check, level)
