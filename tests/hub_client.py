"""A process that fetches from the Hub, with an environment of its own: huggingface_hub reads it once, when imported."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from weft.checkpoints.hub import Fetched, fetch
from weft.errors import InputError

Result = TypeVar("Result")
Reports = list[tuple[str, int, int]]


class Client:
    """Fetches into the cache of `home` from the server at `url`."""

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, spawn, _begin, (settings | environment,))
        self.url = url
        self.cache = home / "hub"

    def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """The result of a function of a module, called there."""
        return self._pool.submit(function, *arguments).result(timeout=60)

    def reported(
        self, hub_id: str, token: str = "", here: Path | None = None, free: int | None = None
    ) -> tuple[Fetched, Reports]:
        """What was fetched and what was told meanwhile, with a token, from a folder, with so much room on the disk."""
        return self.run(_fetch, hub_id, token, here, free)

    def fetch(self, hub_id: str, token: str = "") -> Fetched:
        return self.reported(hub_id, token)[0]

    def complaint(self, hub_id: str, token: str = "", here: Path | None = None, free: int | None = None) -> str:
        """The text of the error."""
        with pytest.raises(InputError) as caught:
            self.reported(hub_id, token, here, free)
        return str(caught.value)

    def close(self) -> None:
        self._pool.shutdown()


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def _begin(environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        del os.environ[name]
    os.environ.update(environment)


def _fetch(hub_id: str, token: str, here: Path | None, free: int | None) -> tuple[Fetched, Reports]:
    reports: Reports = []
    with pytest.MonkeyPatch.context() as patch:
        if token:
            patch.setenv("HF_TOKEN", token)
        if free is not None:
            patch.setattr(shutil, "disk_usage", lambda path: _Usage(10**12, 10**12 - free, free))
        fetched = fetch(hub_id, folder=here or Path(), progress=lambda *report: reports.append(report))
    return fetched, reports
