"""Parts of a repository's files, by HTTP's Range requests: a header costs kilobytes where its file has gigabytes.

What is used of `huggingface_hub` is public: the address of a file, the headers that carry the token, the session with
the user's proxies, and the errors. Its session has been `requests`' and is `httpx`', which stream differently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.checkpoints.comparing import Doubts
from weft.checkpoints.hub_request import Request, is_final, refusal, told
from weft.errors import InputError, listed

_ATTEMPTS = 3
_PAUSE = 0.5
"""Seconds before the second attempt; the third waits twice as long."""
_PIECE = 1 << 16


@dataclass(frozen=True)
class Remote:
    """Weights that are on the Hub and not, or not all, on this disk.

    Attributes:
        request: the repository.
        commit: the hash that names these bytes for ever.
        folder: what is here of it: config, index, tokenizer.
        sizes: the files of weights with their bytes.
        missing: bytes that a merge would have to download.
        tokenizer: the files that say which token has which row, with their hashes.
        doubts: questions that a plan put off until the numbers are here.
    """

    request: Request
    commit: str
    folder: Path
    sizes: Mapping[str, int]
    missing: int
    tokenizer: Mapping[str, str]
    doubts: Doubts = field(default_factory=dict)

    def read(self, file: str, start: int, stop: int) -> bytes:
        """The bytes `start` to `stop` of a file: from this disk if the file is here, else from the Hub.

        Raises:
            InputError: if the Hub refuses, does not answer, or sends something else.
        """
        here = self.folder / file
        if not here.is_file():
            return read_range(self.request, self.commit, file, start, stop)
        with here.open("rb") as stream:
            stream.seek(start)
            return stream.read(stop - start)


def told_doubts(remotes: Iterable[Remote]) -> tuple[str, ...]:
    """What only the weights will tell, a sentence for each question."""
    gathered: Doubts = {}
    for remote in remotes:
        for question, tensors in remote.doubts.items():
            gathered.setdefault(question, {}).update(tensors)
    return tuple(
        f"open until the weights are downloaded: {question} {listed(tensors, 3)}"
        for question, tensors in gathered.items()
    )


def download(request: Request) -> str:
    """The command that fetches a repository into the cache, where a plan finds it."""
    revision = "" if request.revision == "main" else f" --revision {request.revision}"
    return f"`hf download {request.name}{revision}`"


def read_range(request: Request, commit: str, file: str, start: int, stop: int) -> bytes:
    """The bytes `start` to `stop` of a file on the Hub, and not many more over the wire.

    Args:
        request: the repository.
        commit: which revision.
        file: its name in the repository; at least `stop` bytes long.
        start: the first byte.
        stop: one past the last; more than `start`.

    Raises:
        InputError: if the Hub refuses, does not answer, or what stands in its place cannot send parts of files.
    """
    happened = ""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE * attempt)
        try:
            data = _received(request, commit, file, start, stop)
        except InputError:
            raise
        except Exception as error:  # what the HTTP client raises changes between versions of the library
            if is_final(request, error) or attempt == _ATTEMPTS - 1:
                raise refusal(request, error) from error
            happened = told(error)
            continue
        if len(data) == stop - start:
            return data
        happened = f"{len(data)} bytes of {stop - start} came"
    what = f"{request.text}: {file} cannot be read: the connection broke off {_ATTEMPTS} times ({happened})"
    raise InputError(what, f"run the same command again, or fetch the whole files first: {download(request)}")


def _received(request: Request, commit: str, file: str, start: int, stop: int) -> bytes:
    """What one request gives; nothing beyond `stop` is waited for, even from a server that sends the whole file."""
    hub = request.hub
    url = hub.hf_hub_url(request.name, file, revision=commit)
    headers = {**hub.utils.build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with _answer(hub.utils.get_session(), url, headers, hub.constants.HF_HUB_DOWNLOAD_TIMEOUT) as (response, pieces):
        hub.utils.hf_raise_for_status(response)
        if response.status_code != 206 and start:
            what = (
                f"{request.text}: {hub.constants.ENDPOINT} sends files only whole, so that {file} cannot be looked into"
            )
            raise InputError(what, f"fetch the whole files first: {download(request)}")
        data = bytearray()
        for piece in pieces(_PIECE):
            data += piece
            if len(data) >= stop - start:
                break
    return bytes(data[: stop - start])


@contextmanager
def _answer(
    session: Any, url: str, headers: Mapping[str, str], timeout: float
) -> Iterator[tuple[Any, Callable[[int], Iterable[bytes]]]]:
    """A response whose body has not been read, and how to read it in pieces."""
    if callable(getattr(session, "stream", None)):  # httpx; a session of requests has a flag of that name
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            if response.status_code >= 400:
                response.read()  # the library quotes it
            yield response, response.iter_bytes
    else:
        with session.get(url, headers=headers, timeout=timeout, stream=True) as response:
            yield response, response.iter_content
