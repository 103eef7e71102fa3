"""`weft doctor`: what Weft finds on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def doctor(
    folder: Annotated[Path, typer.Argument(help="The disk of this folder is measured.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed, which kernels are cached, how many threads there are and how fast the disk is.

    Writes a scratch file of 256 MB to the folder and removes it.
    """
    import json

    from weft.cli.reporting import reported

    with reported(as_json):
        found = _found(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from weft.cli.reporting import console, literal

    for name, value in found.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        console().print(f"[bold]{name:<14}[/] {literal(str(text))}", highlight=False)


def _found(folder: Path) -> dict[str, Any]:
    import platform

    import weft
    from weft.cli.reporting import size_text
    from weft.engine.forecast import measured_rate
    from weft.engine.settings import Settings
    from weft.kernels.cache import cache_folder, kernels_cached

    written, read = _disk_rates(folder)
    rate = measured_rate()
    return {
        "weft": weft.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "installed": _versions("numpy", "numba", "llvmlite", "pydantic", "rich", "typer"),
        "optional": _versions("torch", "transformers", "huggingface_hub", "safetensors", "blake3", "ml_dtypes"),
        "threads": Settings().threads,
        "kernels": f"{kernels_cached()} cached in {cache_folder()}",
        "disk": f"{size_text(written)}/s written and synced, {size_text(read)}/s read back from the page cache",
        "merges": f"{size_text(rate)}/s so far" if rate else "none long enough to measure so far",
    }


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _disk_rates(folder: Path, size: int = 256 * 2**20) -> tuple[float, float]:
    """Bytes a second: written with a sync at the end, and read again."""
    import os
    import tempfile
    import time

    from weft.errors import InputError

    chunk = bytes(8 * 2**20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            for _ in range(size // len(chunk)):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            file.seek(0)
            while file.read(len(chunk)):
                pass
            return size / (written - began), size / (time.perf_counter() - written)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}", "name a folder that can be written") from None
