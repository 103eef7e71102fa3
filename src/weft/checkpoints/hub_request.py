"""What is asked of the Hub, where its cache keeps it, and the Hub's refusals in a user's words."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed, nearest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class UnreachableError(InputError):
    """The Hub gave no answer, so a complete copy in the cache will do."""


@dataclass(frozen=True)
class Request:
    """A repository at a revision, and the library to ask.

    Attributes:
        text: what the user wrote.
        name: `org/name`.
        revision: a branch, a tag or a commit hash.
        local: what relative paths are relative to.
        hub: the package `huggingface_hub`. Untyped, since the types of its errors differ between versions.
    """

    text: str
    name: str
    revision: str
    local: Path
    hub: Any

    @property
    def cache(self) -> Path:
        """The folder of all repositories that were fetched."""
        return Path(self.hub.constants.HF_HUB_CACHE)

    @property
    def _folder(self) -> Path:
        return self.cache / f"models--{self.name.replace('/', '--')}"

    @property
    def blobs(self) -> Path:
        """The folder that holds this repository's files, named by their hashes."""
        return self._folder / "blobs"

    def snapshot(self, commit: str) -> Path:
        """The folder that holds links to them, by their own names."""
        return self._folder / "snapshots" / commit

    def cached_commit(self) -> str | None:
        """What the cache last knew the revision to stand for."""
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        with suppress(OSError):
            return (self._folder / "refs" / self.revision).read_text("utf-8").strip()
        return None


def library(name: str, local: Path) -> Any:
    """The package `huggingface_hub`, if it is installed."""
    try:
        package = import_module("huggingface_hub")
        for part in ("constants", "hf_api", "utils"):
            import_module(f"huggingface_hub.{part}")
    except ImportError:
        what = f"{name}: no such file or folder, and to fetch it from the Hub, huggingface_hub must be installed"
        raise InputError(what, _or_folder(name, local, 'pip install "weft[hub]"')) from None
    return package


def _or_folder(name: str, local: Path, remedy: str) -> str:
    """A remedy, and before it the local folder that the user may have meant."""
    parent = Path(name).parts[0]
    places: list[str] = []
    with suppress(OSError):
        places += [path.name for path in local.iterdir() if path.is_dir()]
        places += [f"{parent}/{path.name}" for path in (local / parent).iterdir() if path.is_dir()]
    meant = nearest(name, places)
    return f"{meant} Otherwise {remedy}" if meant else remedy


def is_final(request: Request, error: Exception) -> bool:
    """Whether trying again cannot help: the Hub refused, or the disk did."""
    if isinstance(error, request.hub.utils.HfHubHTTPError):
        return 400 <= _status(error) < 500 and _status(error) not in (408, 429)
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _DISK)


def refusal(request: Request, error: Exception) -> InputError:
    """An error of the library in a user's words.

    Args:
        request: what was asked.
        error: whatever the library raised. What its HTTP client raises changes between versions, so that every
            error of a kind not known here counts as no answer.
    """
    kinds = request.hub.utils
    if isinstance(error, kinds.GatedRepoError):
        return _gated(request, error)
    if isinstance(error, kinds.RepositoryNotFoundError):
        return _not_found(request)
    if isinstance(error, kinds.RevisionNotFoundError):
        return _no_revision(request)
    if isinstance(error, kinds.OfflineModeIsEnabled):
        remedy = (
            f"unset HF_HUB_OFFLINE, or fetch it while there is a network: hf download {request.name}; "
            f"if a folder is meant, check the path: there is no {request.local / request.name}"
        )
        return UnreachableError(
            f"{request.text}: HF_HUB_OFFLINE is set", _or_folder(request.name, request.local, remedy)
        )
    if is_final(request, error) and isinstance(error, kinds.HfHubHTTPError):
        return _refused(request, error)
    if isinstance(error, ValueError) and not isinstance(error, JSONDecodeError):  # a file too large for its plain HTTP
        return InputError(f"{request.text}: huggingface_hub gives up ({told(error)})", "pip install -U huggingface_hub")
    if isinstance(error, OSError) and error.errno in _DISK:
        what = f"{request.text}: cannot write to the cache {request.cache}: {error.strerror}"
        return InputError(what, "free some space, or set HF_HOME to a folder that you can write to")
    what = f"{request.text}: no answer from {request.hub.constants.ENDPOINT} ({told(error)})"
    return UnreachableError(what, _or_folder(request.name, request.local, _patience(error)))


def _patience(error: Exception) -> str:
    if _status(error) == 429:
        return "wait a few minutes; those who are logged in (`hf auth login`) may ask more often"
    if _status(error) >= 500:
        return "the Hub has trouble, which passes: try again later"
    return "check the network, HTTPS_PROXY and HF_ENDPOINT"


def _gated(request: Request, error: Exception) -> InputError:
    page = f"{request.hub.constants.ENDPOINT}/{request.name}"
    if _status(error) == 401:
        remedy = f"ask for access at {page}, then log in with `hf auth login` or set HF_TOKEN"
        return InputError(f"{request.text}: the repository is gated, and you are not logged in", remedy)
    remedy = f"ask for access at {page}; if it was granted, allow the token to read gated repositories"
    return InputError(f"{request.text}: the repository is gated, and your token has no access to it", remedy)


def _not_found(request: Request) -> InputError:
    what = f"{request.text}: no such file or folder here, and no such repository at {request.hub.constants.ENDPOINT}"
    remedy = "check the name, or log in if it is private: `hf auth login`, or set HF_TOKEN"
    return InputError(what, _or_folder(request.name, request.local, remedy))


def _no_revision(request: Request) -> InputError:
    what = f"{request.name}: no branch, tag or commit {request.revision!r}"
    try:
        refs = request.hub.HfApi().list_repo_refs(request.name)
    except Exception:  # the list is a courtesy; without it the message still says what is wrong
        return InputError(what, f"choose one from {request.hub.constants.ENDPOINT}/{request.name}/tree/main")
    known = [ref.name for ref in (*refs.branches, *refs.tags)]
    return InputError(what, nearest(request.revision, known) or f"the repository has: {listed(known)}")


def _refused(request: Request, error: Exception) -> InputError:
    remedy = "check the name and the revision"
    if _status(error) in (401, 403):
        remedy = "the token may be wrong or expired: `hf auth login`, or set HF_TOKEN"
    return InputError(f"{request.text}: {request.hub.constants.ENDPOINT} refuses ({told(error)})", remedy)


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def told(error: Exception) -> str:
    """An error's kind and its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
