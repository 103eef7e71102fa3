"""Where a protocol's checkpoints are: local copies first, then the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.checkpoints.hub import fetch
from weft.checkpoints.hub_request import Request, UnreachableError, library, refusal
from weft.engine.progress import Progress
from weft.errors import InputError, Problem, listed, shown
from weft.evaluation.protocols.schema import Protocol, Source

BASE = "base"
_VECTORS = (".safetensors", ".pt", ".pth", ".bin")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin")


@dataclass(frozen=True)
class Located:
    """Folders on this disk; of (IA)3 vectors, files or folders.

    Attributes:
        base: the pretrained model.
        experts: by task.
        called: the base: the Hub's name of it, or the end of the path of a local copy.
    """

    base: Path
    experts: Mapping[str, Path]
    called: str


def locate(protocol: Protocol, tasks: Sequence[str], local: Path | None, progress: Progress) -> Located:
    """Find every checkpoint, and fetch those that are not here.

    Args:
        protocol: says which.
        tasks: whose experts are wanted.
        local: a folder with `base` and a folder for each task, as far as they are there.
        progress: is told what is fetched.

    Raises:
        InputError: naming everything that is missing, and the folders to put it into; or a model of another
            architecture than the protocol's.
    """
    wanted = {BASE: protocol.base, **{task: protocol.experts[task] for task in tasks}}
    found = {name: path for name in wanted if (path := _local(local, name, protocol)) is not None}
    missing = {name: source for name, source in wanted.items() if name not in found}
    _check_downloads(protocol, missing, local)
    for name, source in missing.items():
        progress.phase(f"fetching {source.hub}", 0)
        found[name] = _fetched(protocol, name, source, missing, local)
    _check_kinds(protocol, found)
    is_local = BASE not in missing and local is not None
    called = f"{local.name}/{BASE}" if is_local and local is not None else str(protocol.base.hub)
    return Located(found[BASE], {task: found[task] for task in tasks}, called)


def _local(local: Path | None, name: str, protocol: Protocol) -> Path | None:
    if local is None:
        return None
    if not local.is_dir():
        raise InputError(f"--models {local}: no such folder", f"it should hold {BASE} and a folder for each task")
    files = [local / f"{name}{suffix}" for suffix in _VECTORS] if protocol.family == "ia3" and name != BASE else []
    return next((path for path in (local / name, *files) if path.exists()), None)


def _check_downloads(protocol: Protocol, missing: Mapping[str, Source], local: Path | None) -> None:
    """Tell of all that no Hub has, before anything is fetched."""
    nowhere = {name: source.elsewhere for name, source in missing.items() if source.hub is None}
    if nowhere:
        what = f"{protocol.name}: the Hub does not have the models of {listed(nowhere, most=12)}"
        origins = "; ".join(dict.fromkeys(nowhere.values()))
        raise InputError(f"{what} ({origins})", _copies(list(nowhere), local))


def _copies(names: Sequence[str], local: Path | None) -> str:
    place = local or Path("DIR")
    return f"put copies of them into {listed((str(place / name) for name in names), most=2)}, and give --models {place}"


def _fetched(protocol: Protocol, name: str, source: Source, missing: Mapping[str, Source], local: Path | None) -> Path:
    assert source.hub is not None
    try:
        return _from_folder(source.hub, source.folder) if source.folder else fetch(source.hub).path
    except InputError as error:
        if isinstance(error, UnreachableError) or isinstance(error.__cause__, UnreachableError):
            raise _unreachable(protocol, name, missing, local, error) from None
        also = f"or {_copies([name], local)}"
        raise InputError(Problem(f"{name}: {p.what}", f"{p.remedy}; {also}") for p in error.problems) from None


def _unreachable(
    protocol: Protocol, name: str, missing: Mapping[str, Source], local: Path | None, error: InputError
) -> InputError:
    """Nobody waits for each of eight models to be refused: all that is still missing is told with the first."""
    names = list(missing)[list(missing).index(name) :]
    hubs = listed(dict.fromkeys(str(missing[other].hub) for other in names), most=12)
    what = f"{protocol.name} needs {hubs}: {error.problems[0].what}"
    return InputError(what, f"{error.problems[0].remedy}; or {_copies(names, local)}")


def _from_folder(hub_id: str, folder: str) -> Path:
    """A model that is not at the top of its repository."""
    name, _, revision = hub_id.partition("@")
    request = Request(hub_id, name, revision or "main", Path(), library(name, Path()))
    try:
        wanted = [f"{folder}/{pattern}" for pattern in _FILES]
        place = request.hub.snapshot_download(name, revision=request.revision, allow_patterns=wanted)
    except Exception as error:  # whatever the library's HTTP client raises
        if isinstance(error, request.hub.errors.LocalEntryNotFoundError):
            what = f"{hub_id}: it is not in the cache, and the Hub does not answer"
            remedy = "check the network, HTTPS_PROXY, HF_ENDPOINT and HF_HUB_OFFLINE"
            raise UnreachableError(what, remedy) from error
        raise refusal(request, error) from error
    if not (Path(place) / folder).is_dir():
        raise InputError(f"{hub_id}: has no folder {folder}", "name the folder of a model in that repository")
    return Path(place) / folder


def _check_kinds(protocol: Protocol, found: Mapping[str, Path]) -> None:
    problems = list(_odd_kinds(protocol, found))
    if problems:
        raise InputError(problems)


def _odd_kinds(protocol: Protocol, found: Mapping[str, Path]) -> Iterator[Problem]:
    for name, path in found.items():
        if protocol.family == "ia3" and name != BASE:
            continue
        try:
            kind = json.loads((path / "config.json").read_text("utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            yield Problem(f"{name}: {path} has no readable config.json", "name a folder that transformers can load")
            continue
        if kind not in protocol.kinds:
            what = f"{name}: {path} is a model of the kind {shown(kind)}"
            yield Problem(f"{what}; {protocol.name} merges {' or '.join(protocol.kinds)}", "name the right model")
