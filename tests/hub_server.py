"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as a download needs.

Repositories are local folders. Weights are served as large files are: the Hub answers with a redirection that carries
their SHA-256 and size, and another address, which asks for no token, sends the bytes, in ranges if asked to. Transfers
can be cut once, repositories gated or hidden, the whole server out of order.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ACCESS = "hf_may_read_it"
"""The token that opens gated and private repositories; any other is known but has no access."""
EXPIRED = "hf_expired"
"""A token that is refused altogether."""
_LARGE = (".safetensors", ".bin", ".gguf", ".onnx", ".h5", ".pth")
_PAGE = 5
_STEP = 1 << 20


@dataclass(frozen=True)
class Blob:
    """One file's bytes and names."""

    path: Path

    @cached_property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def is_large(self) -> bool:
        return self.path.suffix in _LARGE

    @cached_property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        """As the tree lists it."""
        plain = {"type": "file", "path": name, "size": len(self.data), "oid": self.git}
        large = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}}
        return plain | large if self.is_large else plain


@dataclass
class Repository:
    """Revisions of one model, and who may see them."""

    revisions: dict[str, dict[str, Blob]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str:
        """A hash of what the revision holds."""
        held = sorted((name, blob.git) for name, blob in self.revisions[revision].items())
        return hashlib.sha1(repr(held).encode()).hexdigest()

    def find(self, revision: str) -> str | None:
        """The name of a revision, given that or its commit."""
        return next((name for name in self.revisions if revision in (name, self.commit(name))), None)


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    start: int
    token: str
    stop: int | None = None


class HubServer:
    """Repositories, and the address `url` at which `running` serves them.

    Attributes:
        seen: every request.
        status: answer everything with this instead of 200.
        pace: seconds to wait after each MiB sent.
        served: bytes of bodies that were sent.
        ranges: whether parts of files are sent when asked for; otherwise always the whole file.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.seen: list[Seen] = []
        self.status = 200
        self.pace = 0.0
        self.served = 0
        self.ranges = True
        self._cuts: dict[str, tuple[int, bool]] = {}  # by the path of the transfer
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        """Answers while inside."""
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def store(self) -> str:
        """Where large files are. Another host in name, as clients follow redirections inside a host at once."""
        return f"http://localhost:{self._server.server_address[1]}"

    def add(
        self, name: str, folder: Path, revision: str = "main", *, gated: bool = False, private: bool = False
    ) -> str:
        """Serve a folder as a revision of a repository.

        Returns:
            Its commit.
        """
        repository = self.repositories.setdefault(name, Repository())
        repository.gated, repository.private = gated, private
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        repository.revisions[revision] = {path.relative_to(folder).as_posix(): Blob(path) for path in files}
        return repository.commit(revision)

    def cut(self, name: str, file: str, after: int, *, rudely: bool = False) -> None:
        """Break the next transfer of a file after so many bytes: close the connection, or rudely reset it."""
        self._cuts[self._place(name, file)] = (after, rudely)

    def take_cut(self, place: str) -> tuple[int, bool] | None:
        """The cut that is due, once."""
        return self._cuts.pop(place, None)

    def transfers(self, name: str, file: str) -> list[int]:
        """The first byte of each transfer of a large file, in the order in which they were asked for."""
        place = self._place(name, file)
        return [seen.start for seen in self.seen if seen.method == "GET" and seen.path == place]

    def fetched(self, name: str) -> set[str]:
        """The files of a repository that were asked for."""
        pattern = re.compile(rf"/{re.escape(name)}/resolve/[^/]+/(.+)")
        return {match[1] for seen in self.seen if (match := pattern.fullmatch(seen.path))}

    def _place(self, name: str, file: str) -> str:
        return f"/cdn/{name}/{self.repositories[name].revisions['main'][file].sha256}"


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hangs up, having seen enough, is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": server})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        start, stop = self._range()
        self.hub.seen.append(Seen(self.command, path, start, self._token(), stop))
        if self.hub.status != 200:
            return self._send(self.hub.status)
        if self._token() == EXPIRED and not path.startswith("/cdn/"):
            return self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        routes = (
            (r"/cdn/([^/]+/[^/]+)/(\w+)", self._cdn),
            (r"/api/models/([^/]+/[^/]+)/refs", self._refs),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        )
        for pattern, route in routes:
            if match := re.fullmatch(pattern, path):
                return route(*match.groups())
        return self._send(404)

    def _range(self) -> tuple[int, int | None]:
        """From which byte, and up to which one if that is said; a header or part that is asked for says both."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match or not self.hub.ranges:
            return 0, None
        return int(match[1]), int(match[2]) + 1 if match[2] else None

    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _visible(self, name: str) -> Repository | None:
        """The repository, unless it must not be known; then the refusal has been sent."""
        repository = self.hub.repositories.get(name)
        if repository is not None and not (repository.private and self._token() != ACCESS):
            return repository
        status = 404 if self._token() else 401
        self._send(status, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        return None

    def _known(self, repository: Repository, revision: str) -> str | None:
        found = repository.find(revision)
        if found is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        return found

    def _info(self, name: str, asked: str | None) -> None:
        repository = self._visible(name)
        revision = repository and self._known(repository, asked or "main")
        if repository is None or revision is None:
            return
        body = {
            "id": name, "modelId": name, "sha": repository.commit(revision), "private": repository.private,
            "gated": "manual" if repository.gated else False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": [], "siblings": [{"rfilename": file} for file in repository.revisions[revision]],
        }  # fmt: skip
        self._send_json(body)

    def _tree(self, name: str, asked: str) -> None:
        repository = self._visible(name)
        revision = repository and self._known(repository, asked)
        if repository is None or revision is None:
            return
        files = repository.revisions[revision]
        folders = sorted({parent for file in files for parent in _parents(file)})
        entries = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
        entries += [blob.entry(file) for file, blob in files.items()]
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = start + _PAGE < len(entries)
        address = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + _PAGE}"
        self._send_json(entries[start : start + _PAGE], {"Link": f'<{address}>; rel="next"'} if more else {})

    def _refs(self, name: str) -> None:
        repository = self._visible(name)
        if repository is None:
            return
        refs = [
            {"name": revision, "ref": f"refs/heads/{revision}", "targetCommit": repository.commit(revision)}
            for revision in repository.revisions
        ]
        self._send_json({"branches": refs, "tags": [], "converts": []})

    def _resolve(self, name: str, asked: str, file: str) -> None:
        repository = self._visible(name)
        revision = repository and self._known(repository, asked)
        if repository is None or revision is None:
            return
        if repository.gated and self._token() != ACCESS:
            message = f"Access to model {name} is restricted."
            self._send(403 if self._token() else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
            return
        commit = {"X-Repo-Commit": repository.commit(revision)}
        blob = repository.revisions[revision].get(file)
        if blob is None:
            self._send(404, commit | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif blob.is_large:
            linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
            self._send(302, commit | linked | {"Location": f"{self.hub.store}/cdn/{name}/{blob.sha256}"})
        else:
            self._send_file(blob.data, commit | {"ETag": f'"{blob.git}"'})

    def _cdn(self, name: str, sha256: str) -> None:
        blobs = (blob for files in self.hub.repositories[name].revisions.values() for blob in files.values())
        found = next(blob for blob in blobs if blob.sha256 == sha256)
        self._send_file(found.data, {"ETag": f'"{sha256}"'}, self.hub.take_cut(f"/cdn/{name}/{sha256}"))

    def _send_json(self, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, {"Content-Type": "application/json"} | (headers or {}), json.dumps(body).encode())

    def _send_file(self, data: bytes, headers: dict[str, str], cut: tuple[int, bool] | None = None) -> None:
        start, stop = self._range()
        part = data[start:stop]
        partial = start > 0 or stop is not None
        if partial:
            headers |= {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}
        self._send(206 if partial else 200, headers | {"Accept-Ranges": "bytes"}, part, cut)

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", cut: tuple[int, bool] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in _pieces(body[: cut[0]] if cut else body):
            self.wfile.write(piece)
            self.hub.served += len(piece)
            time.sleep(self.hub.pace)
        if cut:
            self._hang_up(rudely=cut[1])

    def _hang_up(self, rudely: bool) -> None:
        self.close_connection = True
        self.wfile.flush()
        if rudely:  # closing with a linger time of zero sends a reset instead of a farewell
            time.sleep(0.2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())


def _parents(file: str) -> Iterable[str]:
    folders = file.split("/")[:-1]
    return ["/".join(folders[: depth + 1]) for depth in range(len(folders))]


def _pieces(data: bytes) -> Iterable[bytes]:
    return [data[start : start + _STEP] for start in range(0, len(data), _STEP)]
