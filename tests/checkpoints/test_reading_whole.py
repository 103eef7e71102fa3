"""Several tensors are read at once where they lie so, and one by one where they do not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from weft.checkpoints.opening import open_checkpoint
from weft.checkpoints.renamed import renamed
from weft.checkpoints.sources import ChangedError

STATE = {f"w.{k}": np.arange(100 * k, 100 * k + 5 + k, dtype=np.float32) for k in range(6)}


def read(checkpoint, names: list[str]) -> np.ndarray:
    buffer = np.empty(sum(checkpoint.tensors[name].nbytes for name in names), np.uint8)
    checkpoint.read_whole(names, buffer)
    return buffer.view(np.float32)


@pytest.mark.parametrize("order", [range(6), (3, 4, 1, 2, 5, 0), (0, 2, 4), (5,)])
@pytest.mark.parametrize("place", ["file", "memory", "other names"])
def test_in_any_order(tmp_path: Path, order: tuple[int, ...], place: str) -> None:
    save_file(STATE, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(STATE if place == "memory" else tmp_path / "m.safetensors")
    names = [f"w.{k}" for k in order]
    expected = np.concatenate([STATE[name] for name in names])
    if place == "other names":
        checkpoint, names = renamed(checkpoint, {r"re:^w\.": "v."}), [f"v.{k}" for k in order]
    assert np.array_equal(read(checkpoint, names), expected)
    checkpoint.close()


def test_what_follows_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(STATE, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: calls.append(given) or preadv(*given))
    read(checkpoint, list(STATE))
    assert len(calls) == 1
    checkpoint.close()


def test_a_file_cut_short_names_the_tensor(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    os.truncate(tmp_path / "m.safetensors", os.path.getsize(tmp_path / "m.safetensors") - 50)
    with pytest.raises(ChangedError, match=r"ends before tensor 'w\.4' does"):
        read(checkpoint, list(STATE))
    checkpoint.close()
