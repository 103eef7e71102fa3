"""Names that differ: stray prefixes are recognised, a rename map settles the rest."""

from __future__ import annotations

import numpy as np
import pytest

import weft

BASE = {f"layers.{i}.w": np.full(3, float(i)) for i in range(12)}
TUNED = {name: t + 1 for name, t in BASE.items()}


def merged(base: dict, tuned: dict, **options: object) -> tuple[dict[str, np.ndarray], list[str]]:
    heard: list[str] = []

    class Listener(weft.Progress):
        def warning(self, text: str) -> None:
            heard.append(text)

    recipe = {"method": "task_arithmetic", "base": base, "models": [{"path": tuned, "name": "a", **options}]}
    assert weft.plan(recipe).groups[0].tensors == len(base)
    entry = {"path": tuned, "name": "a", **options}
    return weft.merge([entry], base=base, method="task_arithmetic", scale=1, progress=Listener()), heard


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "module._orig_mod."])
def test_a_stray_prefix_is_removed_or_added_and_told(prefix: str) -> None:
    prefixed = {prefix + name: t for name, t in TUNED.items()}
    result, heard = merged(BASE, prefixed)
    assert all(np.array_equal(result[name], TUNED[name]) for name in BASE)
    assert heard == [f"model 'a': tensor names are read without {prefix!r} before them"]
    result, heard = merged({prefix + name: t for name, t in BASE.items()}, TUNED)
    assert list(result) == list(prefixed)
    assert heard == [f"model 'a': tensor names are read with {prefix!r} before them"]


def test_a_head_beside_the_prefixed_body_stays() -> None:
    prefixed = {"model." + name: t for name, t in TUNED.items()} | {"head": np.ones(2)}
    result, _ = merged(BASE | {"head": np.zeros(2)}, prefixed)
    assert result["head"].tolist() == [1, 1]


def test_names_that_mostly_fit_are_left_alone() -> None:
    odd = {**TUNED, "module.extra": np.ones(1)}
    with pytest.raises(weft.InputError, match=r"tensor 'module\.extra' is in model 'a' but missing from base"):
        weft.merge({"a": odd}, base=BASE, method="ties")


def test_a_rename_map() -> None:
    other = {name.replace("layers.", "encoder.block_").replace(".w", ".weight"): t for name, t in TUNED.items()}
    result, heard = merged(BASE, other, rename={"encoder.": "", r"re:^block_(\d+)\.weight$": r"layers.\1.w"})
    assert all(np.array_equal(result[name], TUNED[name]) for name in BASE)
    assert heard == []


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        ({"encodr.": ""}, "rename: 'encodr.' is in no tensor name"),
        ({"re:(": ""}, "rename 're:(' -> ''"),
        ({r"re:x": r"\2"}, "invalid group reference"),
        ({r"re:layers\.\d+": "layer"}, "the same name 'layer.w'"),
    ],
)
def test_a_rename_that_goes_wrong(rename: dict[str, str], says: str) -> None:
    with pytest.raises(weft.InputError) as caught:
        weft.merge([{"path": TUNED, "rename": rename}], base=BASE, method="ties")
    assert says in str(caught.value)


def test_errors_name_the_tensor_as_it_is_in_the_file() -> None:
    wrong = {"net." + name: t[:2] for name, t in TUNED.items()}
    with pytest.raises(weft.InputError, match=r"there called 'net\.layers\.0\.w'"):
        weft.merge([{"path": wrong, "rename": {"net.": ""}}], base=BASE, method="ties")


def test_tied_tensors_stay_tied_under_new_names() -> None:
    model = {"x.a": BASE["layers.0.w"], "x.b": BASE["layers.0.w"]}
    result = weft.merge([{"path": model, "rename": {"x.": "y."}}])
    assert result["y.a"] is result["y.b"]
