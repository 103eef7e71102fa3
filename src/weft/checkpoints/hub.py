"""From a Hugging Face Hub id, `org/name` or `org/name@revision`, to a folder on disk.

Transfers, the cache, tokens and mirrors are `huggingface_hub`'s business, and so are the variables that steer them:
HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. What is decided here is what counts as an id, which files
a merge needs, whether the disk can hold them, and how a failure is worded. Where the answers of the library differ
between its versions, the cache is read by its published layout: https://huggingface.co/docs/hub/local-cache
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from glob import escape
from pathlib import Path
from threading import Event, Thread
from typing import Any

from weft.checkpoints.hub_files import is_index, is_weights, listed_in, needed
from weft.checkpoints.hub_ranges import Remote, download
from weft.checkpoints.hub_request import Request, UnreachableError, is_final, library, refusal, told
from weft.errors import InputError, listed

Report = Callable[[str, int, int], None]
"""Told of a download: the id, the bytes that are here, the bytes there will be. Called from another thread."""

_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<name>{_PART}/{_PART})(?:@(?P<revision>[^\s@]+))?", re.ASCII)
_LONGEST = 96
_FILES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".json", ".git",
)  # fmt: skip

_TOKENIZER = ("tokenizer.json", "vocab.json", "vocab.txt", "added_tokens.json")
"""Which token has which row; may take megabytes."""
_SETTINGS = (
    "config.json", "model_index.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json",
    "adapter_config.json",
)  # fmt: skip
"""What says of which kind a model is."""
_SMALL_PICKLE = 50 * 10**6
"""Bytes of a torch pickle that a plan fetches without being told to: adapters, mostly."""

_ATTEMPTS = 3
_PAUSE = 1.0
"""Seconds before the second attempt; the third waits twice as long."""
_INTERVAL = 0.2
"""Seconds between two looks at what has arrived."""


@dataclass(frozen=True)
class Fetched:
    """A repository's files on this disk.

    Attributes:
        name: `org/name`.
        path: the folder, inside the Hub's cache: to read, never to write to.
        commit: the hash that the revision stood for; it names these bytes for ever.
        revision: as asked: a branch, a tag or a hash; "main" if none was.
        note: what the user should know, if anything: that the Hub did not answer and the cached copy may be old.
        remote: where the weights are, if only what lies beside them was fetched.
    """

    name: str
    path: Path
    commit: str
    revision: str
    note: str = ""
    remote: Remote | None = field(default=None, compare=False)

    @property
    def pinned(self) -> str:
        """The id that means these bytes whatever becomes of the branch: `org/name@commit`."""
        return f"{self.name}@{self.commit}"


@dataclass(frozen=True)
class _File:
    """A file of a repository; `blob` is its hash, by which the cache knows it."""

    name: str
    size: int
    blob: str


def is_hub_id(text: str, folder: Path = Path()) -> bool:
    """Whether this names a repository on the Hub rather than a place on this disk.

    Args:
        text: what a person wrote where a model is expected.
        folder: what relative paths are relative to.

    Returns:
        True for `org/name` and `org/name@revision`. False for what exists here, for what begins like a path (`.`, `/`,
        `~`), and for what ends like a file.

    Example:
        >>> is_hub_id("org/name"), is_hub_id("org/name@v1.0"), is_hub_id("./org/name"), is_hub_id("org/weights.bin")
        (True, True, False, False)
    """
    match = _ID.fullmatch(text)
    if match is None or len(match["name"]) > _LONGEST or "--" in match["name"] or ".." in text:
        return False
    return not text.endswith(_FILES) and not match["name"].endswith(_FILES) and not os.path.lexists(folder / text)


def fetch(hub_id: str, *, folder: Path = Path(), progress: Report | None = None) -> Fetched:
    """Bring a repository's weights, in one format, and their companions to this disk, unless they are here.

    Args:
        hub_id: `org/name` or `org/name@revision`; the revision is a branch, a tag or a commit hash.
        folder: what relative paths are relative to; where the Hub knows no such name, a folder there may be meant.
        progress: told the id, bytes here and bytes in all, a few times a second, and once when all is here.

    Returns:
        The folder and the commit. If the Hub cannot be reached: a complete copy in the cache, with a note.

    Raises:
        InputError: if there is no such repository or revision, it is private or gated, it holds no weights, the Hub
            cannot be reached, the disk is too small, or `huggingface_hub` is missing.
    """
    request = _request(hub_id, folder)
    with _without_bars(request.hub, progress is not None):
        try:
            commit, files = _listing(request)
        except UnreachableError as problem:
            return _from_cache(request, problem)
        wanted = _wanted(request, commit, files)
        _check_disk(request, commit, wanted)
        with _reporting(request, commit, wanted, progress):
            _download(request, commit, wanted)
    return Fetched(request.name, request.snapshot(commit), commit, request.revision)


def glance(hub_id: str, *, folder: Path = Path()) -> Fetched:
    """Bring what a plan needs of a repository: config and index. The weights stay where they are.

    Args:
        hub_id: as for `fetch`.
        folder: as for `fetch`.

    Returns:
        The folder and the commit; with `remote` if weights are missing there. If the Hub cannot be reached: as `fetch`.

    Raises:
        InputError: as `fetch`; and for torch pickles, which do not begin with a list of what is in them.
    """
    request = _request(hub_id, folder)
    with _without_bars(request.hub, True):
        try:
            commit, files = _listing(request)
        except UnreachableError as problem:
            return _from_cache(request, problem)
        wanted = _wanted(request, commit, files)
        remote = _remote(request, commit, wanted)
        beside = [f for f in wanted if is_index(f.name) or f.name.rpartition("/")[2] in _SETTINGS]
        if remote is None:
            beside += [f for f in wanted if f.name in _TOKENIZER]
        elif pickles := [name for name in remote.sizes if name.endswith(".bin")]:
            _refuse_large(request, pickles, remote.missing)
            remote, beside = None, wanted
        _download(request, commit, beside)
    return Fetched(request.name, request.snapshot(commit), commit, request.revision, remote=remote)


def _remote(request: Request, commit: str, wanted: list[_File]) -> Remote | None:
    """What is missing here of the weights; None if nothing is."""
    folder = request.snapshot(commit)
    sizes = {file.name: file.size for file in wanted if is_weights(file.name)}
    if all((folder / name).is_file() for name in sizes):
        return None
    missing = sum(file.size for file in wanted) - _present(request, commit, wanted, _sizes(request.blobs))
    return Remote(request, commit, folder, sizes, missing, {f.name: f.blob for f in wanted if f.name in _TOKENIZER})


def _refuse_large(request: Request, pickles: list[str], missing: int) -> None:
    if missing > _SMALL_PICKLE:
        what = f"{request.text}: its weights are torch pickles ({listed(pickles)}), whose tensors are known only once"
        remedy = f"fetch them for the plan: {download(request)}; or name a revision that has safetensors"
        raise InputError(f"{what} they are here: {_gigabytes(missing)} to download", remedy)


def bring_tokenizers(remotes: Iterable[Remote]) -> None:
    """Fetch the files that say which token has which row: for models whose tokens must be compared.

    Raises:
        InputError: if they cannot be fetched.
    """
    for remote in remotes:
        files = [_File(name, 0, blob) for name, blob in remote.tokenizer.items()]
        with _without_bars(remote.request.hub, True):
            _download(remote.request, remote.commit, files)


def check_room(remotes: Iterable[Remote]) -> None:
    """See that the disk of the cache can hold all downloads together.

    Raises:
        InputError: with the figures.
    """
    distinct = {(remote.request.name, remote.commit): remote for remote in remotes}
    if distinct:
        request = next(iter(distinct.values())).request
        names = listed(remote.request.text for remote in distinct.values())
        _check_room(request, names, sum(remote.missing for remote in distinct.values()), "")


def _request(hub_id: str, folder: Path) -> Request:
    match = _ID.fullmatch(hub_id)
    if match is None:
        raise InputError(f"{hub_id!r} is not a Hub id", "write org/name or org/name@revision")
    return Request(hub_id, match["name"], match["revision"] or "main", folder, library(match["name"], folder))


@contextmanager
def _without_bars(hub: Any, reported: bool) -> Iterator[None]:
    """The library draws no progress bars of its own while someone else is told."""
    settled = hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # by the user's environment, which has the say
    if not reported or settled or hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()


def _listing(request: Request) -> tuple[str, list[_File]]:
    """The commit that the revision stands for now, and its files."""
    hub = request.hub
    try:
        api = hub.HfApi()
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        commit = str(api.model_info(request.name, revision=request.revision, timeout=timeout).sha)
        tree = list(api.list_repo_tree(request.name, recursive=True, revision=commit))
    except Exception as error:
        raise refusal(request, error) from error
    return commit, [_file(entry) for entry in tree if isinstance(entry, hub.hf_api.RepoFile)]


def _file(entry: Any) -> _File:
    if entry.lfs is None:
        return _File(entry.path, entry.size, entry.blob_id)
    return _File(entry.path, entry.lfs.size, entry.lfs.sha256)


def _wanted(request: Request, commit: str, files: list[_File]) -> list[_File]:
    names = [file.name for file in files]
    wanted = set(needed(names, partial(_shards, request, commit)))
    if not any(map(is_weights, wanted)):
        raise _no_weights(request, names)
    return [file for file in files if file.name in wanted]


def _shards(request: Request, commit: str, index: str) -> list[str]:
    try:
        path = request.hub.hf_hub_download(request.name, index, revision=commit)
    except Exception as error:
        raise refusal(request, error) from error
    return listed_in(Path(path), index)


def _no_weights(request: Request, names: Collection[str]) -> InputError:
    what = f"{request.text}: no safetensors or .bin weights in this repository; it holds: {listed(names)}"
    if any(name.endswith(".gguf") for name in names):
        return InputError(what, "GGUF files are made for inference: name the repository that they were converted from")
    return InputError(what, "name a repository that holds a model, or download the file you mean and name its path")


def _from_cache(request: Request, problem: UnreachableError) -> Fetched:
    """A complete copy that needs no network."""
    what, remedy = problem.problems[0].what, problem.problems[0].remedy
    commit = request.cached_commit()
    if commit is None or not request.snapshot(commit).is_dir():
        raise InputError(f"{what}, and it is not in the cache {request.cache}", remedy) from problem
    folder = request.snapshot(commit)
    if missing := _missing(folder):
        raise InputError(f"{what}, and the copy in the cache, {folder}, lacks {listed(missing)}", remedy) from problem
    if request.hub.constants.HF_HUB_OFFLINE:
        return Fetched(request.name, folder, commit, request.revision)
    note = f"{what}; using the copy in the cache, commit {commit[:12]}, which may be old"
    return Fetched(request.name, folder, commit, request.revision, note)


def _missing(folder: Path) -> list[str]:
    """What a copy obviously lacks: shards that an index lists, or weights at all."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = needed(names, lambda index: listed_in(folder / index, index))
    parts = {part for index in filter(is_index, wanted) for part in listed_in(folder / index, index)}
    return sorted(parts - names) or ([] if any(map(is_weights, wanted)) else ["weights"])


def _check_disk(request: Request, commit: str, files: list[_File]) -> None:
    total = sum(file.size for file in files)
    here = _present(request, commit, files, _sizes(request.blobs))
    parts = f" ({_gigabytes(total)} in all, {_gigabytes(here)} in the cache)"
    _check_room(request, request.text, total - here, parts)


def _check_room(request: Request, what: str, count: int, parts: str) -> None:
    place = next(path for path in (request.cache, *request.cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if count > free:
        told = f"{what}: the download needs {_gigabytes(count)}{parts}, but the disk of {request.cache} has"
        raise InputError(
            f"{told} {_gigabytes(free)} free", "free some space, or set HF_HOME to a folder on a larger disk"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _present(request: Request, commit: str, files: list[_File], blobs: Mapping[str, int]) -> int:
    """How many bytes of these files are here, given the sizes of the blobs."""
    done = 0
    for file in files:
        whole = file.blob in blobs or (request.snapshot(commit) / file.name).is_file()
        done += file.size if whole else min(blobs.get(f"{file.blob}.incomplete", 0), file.size)
    return done


def _sizes(folder: Path) -> dict[str, int]:
    """The files of a folder that others may be filling."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat().st_size
    return found


def _arriving(blobs: Mapping[str, int]) -> dict[str, int]:
    """The same with unfinished files under one name, whichever tag this version of the library gives them."""
    found = dict(blobs)
    for name, size in blobs.items():
        if name.endswith(".incomplete"):
            plain = f"{name.partition('.')[0]}.incomplete"
            found[plain] = max(found.get(plain, 0), size)
    return found


@contextmanager
def _reporting(request: Request, commit: str, files: list[_File], report: Report | None) -> Iterator[None]:
    """Tell how many bytes have arrived by looking: no version of the library offers another way for all transfers."""
    if report is None:
        yield
        return
    total = sum(file.size for file in files)
    stop = Event()

    def watch() -> None:
        most = 0
        while not stop.is_set():
            most = max(most, _present(request, commit, files, _arriving(_sizes(request.blobs))))
            report(request.text, most, total)
            stop.wait(_INTERVAL)

    thread = Thread(target=watch, name="weft-download", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    report(request.text, total, total)


def _download(request: Request, commit: str, files: list[_File]) -> None:
    """Fetch what is missing. After a broken transfer, what is complete is kept."""
    happened = "its branch moved during the download"
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        # First by the revision's name, so that the cache learns it for offline use; then by the hash, in case it moved.
        revision = commit if attempt else request.revision
        try:
            patterns = [escape(file.name) for file in files]
            request.hub.snapshot_download(request.name, revision=revision, allow_patterns=patterns)
        except Exception as error:
            if is_final(request, error):
                raise refusal(request, error) from error
            happened = told(error)
        if all((request.snapshot(commit) / file.name).is_file() for file in files):
            return
    remedy = "run the same command again: files that are complete are kept"
    raise InputError(f"{request.text}: the download broke off {_ATTEMPTS} times ({happened})", remedy)
