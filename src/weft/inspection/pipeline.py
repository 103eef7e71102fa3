"""Is a pipeline whole: the folders that it lists, nothing else, each with the model that the listing says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from weft.checkpoints.pipeline import LISTING, components, unlisted
from weft.errors import listed
from weft.inspection.findings import Finding
from weft.inspection.subject import Subject, read_json

_COPY = "copy config.json from the model that these tensors come from"


def parts_present(subject: Subject) -> Iterator[Finding]:
    """Every component that is listed has its folder, and no weights lie about that belong to none."""
    if subject.folder is None or not subject.below:
        return
    listing = subject.folder / LISTING
    for name in components(subject.folder):
        if not (subject.folder / name).is_dir():
            what = f"{listing}: lists {name!r}, but there is no such folder"
            yield Finding("error", "pipeline", what, f"copy {name} from the base model, or write [null, null] for it")
    for name in unlisted(subject.folder):
        what = f"{subject.folder / name}: holds weights, but {LISTING} does not list it"
        yield Finding(subject.untidy, "stale", what, "remove it, or list it with its library and class")
    beside = sorted(path.name for path in subject.folder.glob("*.safetensors"))
    if beside and subject.by_weft:
        what = f"{subject.folder}: weights beside the parts of a pipeline: {listed(beside)}"
        yield Finding("error", "stale", what, "remove them")


def classes_agree(subject: Subject) -> Iterator[Finding]:
    """The class that a part's config names is the one that the listing gives."""
    if subject.folder is None or not subject.below:
        return
    told = read_json(subject.folder / LISTING)
    for name, part in subject.below.items():
        named, expected = part.config.get("_class_name"), told[name][1]
        if isinstance(named, str) and named != expected:
            what = f"{subject.folder / LISTING}: {name!r} is a {expected}, but {name}/config.json says {named}"
            yield Finding("error", "pipeline", what, "were folders swapped? give each part its own config and weights")


@dataclass(frozen=True)
class _Channels:
    """The tensor of this name has, along this axis, as many channels as one of these keys states."""

    name: str
    axis: int
    key: str


_CHANNELS: Mapping[str, tuple[_Channels, ...]] = {
    "UNet2DModel": (
        _Channels("conv_in.weight", 1, "in_channels"),
        _Channels("conv_in.weight", 0, "block_out_channels"),
        _Channels("conv_out.weight", 0, "out_channels"),
    ),
    "UNet2DConditionModel": (
        _Channels("conv_in.weight", 1, "in_channels"),
        _Channels("conv_in.weight", 0, "block_out_channels"),
        _Channels("conv_out.weight", 0, "out_channels"),
        _Channels("attn2.to_k.weight", 1, "cross_attention_dim"),
    ),
    "AutoencoderKL": (
        _Channels("encoder.conv_in.weight", 1, "in_channels"),
        _Channels("decoder.conv_out.weight", 0, "out_channels"),
        _Channels("decoder.conv_in.weight", 1, "latent_channels"),
    ),
}
"""What is certain for the classes that diffusion models are made of; configs of other classes use other words."""


def channels_fit(subject: Subject) -> Iterator[Finding]:
    """A diffusion model's first and last layers have the channels that its config states."""
    for rule in _CHANNELS.get(str(subject.config.get("_class_name")), ()):
        told = subject.config.get(rule.key)
        allowed = {size for size in (told if isinstance(told, list) else [told]) if isinstance(size, int)}
        specs = [spec for name, spec in subject.tensors.items() if name == rule.name or name.endswith(f".{rule.name}")]
        specs = [spec for spec in specs if len(spec.shape) > rule.axis]
        if allowed and specs and not any(spec.shape[rule.axis] in allowed for spec in specs):
            spec = specs[0]
            what = (
                f"{subject.file_of(spec.name)}: {spec.name!r} {list(spec.shape)} has {spec.shape[rule.axis]} channels"
            )
            what += f" along axis {rule.axis}, config.json says {rule.key} {told}"
            yield Finding("error", "config", what, _COPY)
