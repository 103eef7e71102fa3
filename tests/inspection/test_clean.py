"""What is sound passes without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import weft
from tests.drawing import base_and_tuned
from tests.inspection.models import merged, write
from weft.errors import InputError
from weft.inspection.verify import CHECKS, verify


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_size", ["1GB", "12KB", "1B"])
def test_what_a_merge_writes_is_spotless(tmp_path: Path, tied: bool, shard_size: str) -> None:
    out = merged(tmp_path, tied, shard_size)
    verdict = verify(out)
    assert verdict.findings == ()
    assert verdict.skipped == ()
    assert (verdict.ok, verdict.spotless, verdict.path) == (True, True, out)
    assert verdict.tensors == (38 if tied else 39)
    assert verdict.files == len(list(out.glob("*.safetensors")))
    assert verdict.bytes_read == 4 * verdict.elements > 10_000
    assert len(verdict.checks) == len(CHECKS) + 2


def test_an_index_can_be_named(tmp_path: Path) -> None:
    out = merged(tmp_path, shard_size="12KB")
    assert verify(out / "model.safetensors.index.json").spotless


def test_nothing_is_touched(tmp_path: Path) -> None:
    out = merged(tmp_path, shard_size="12KB")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    verify(out)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before


def test_hashes(tmp_path: Path) -> None:
    pytest.importorskip("blake3")
    out = merged(tmp_path, shard_size="12KB", hashes=True)
    verdict = verify(out, hashes=True)
    assert verdict.spotless
    assert verdict.bytes_read > 2 * 4 * verdict.elements, "read once for the numbers and once for the hashes"


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_lone_file_of_any_format(tmp_path: Path, dtype: str) -> None:
    base, tuned = base_and_tuned(0, 2)
    weft.merge_to(
        {"method": "ties", "base": base, "models": tuned, "output": {"dtype": dtype}}, tmp_path / "o.safetensors"
    )
    verdict = verify(tmp_path / "o.safetensors")
    assert verdict.findings == ()
    assert (verdict.tensors, verdict.files) == (len(base), 1)


def test_a_model_that_weft_did_not_write(tmp_path: Path) -> None:
    assert verify(write(tmp_path / "base", 0)).findings == ()


def test_a_torch_pickle_is_looked_at_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "m").mkdir()
    torch.save({"w": torch.tensor([[1.0, float("nan")], [2.0, 3.0]])}, tmp_path / "m" / "pytorch_model.bin")
    (finding,) = verify(tmp_path / "m").findings
    assert "tensor 'w' [2, 2]: 1 NaN among 4 numbers, the first at [0, 1]" in finding.what


def test_a_pipeline_is_looked_at_part_by_part(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    write(tmp_path / "text_encoder", 0)
    write(tmp_path / "other", 1)
    verdict = verify(tmp_path)
    assert verdict.spotless
    assert (verdict.files, verdict.tensors) == (2, 78)
    save_file({"w": np.full((2, 2), np.inf, np.float32)}, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    assert any("+inf" in finding.what and "other" in finding.what for finding in verify(tmp_path).errors)


def test_threads_change_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"w{k}": rng.standard_normal((1500, 1000)).astype(np.float32) for k in range(3)}
    tensors["w1"][900, 3] = np.nan
    tensors["w2"][:, :] = 7
    save_file(tensors, tmp_path / "x.safetensors")
    verdicts = [verify(tmp_path / "x.safetensors", workers=workers) for workers in (1, 2, 5)]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert len(verdicts[0].findings) == 2


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(InputError, match=r"mergd: no such file or folder(.|\n)*did you mean 'merged'"):
        verify(tmp_path / "mergd")


def test_an_empty_folder_is_an_error_of_the_model(tmp_path: Path) -> None:
    (finding,) = verify(tmp_path).errors
    assert "no weights in it" in finding.what
