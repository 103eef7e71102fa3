"""Outputs that cannot be written."""

from __future__ import annotations

from pathlib import Path

from tests.mistakes.planting import Mistake, Plant, bytes_in, nothing, saved, tensors


def output(name: str, target: str, *says: str, remedy: str, plant: Plant = nothing, code: int = 2) -> Mistake:
    command = ("merge", "recipe.yaml", "-o", *target.split(), "--quiet")
    return Mistake(name, says, remedy, plant=plant, command=command, code=code, known_early=False)


def _notes(place: Path) -> None:
    saved("out/model.safetensors", tensors(0))(place)
    bytes_in("out/notes.txt", b"mine")(place)


OTHER = "choose another output"

ALL = (
    output("an output that exists", "out", "out exists", remedy="replace it with --overwrite",
           plant=saved("out/model.safetensors", tensors(0))),
    output("a file that exists", "out.safetensors", "out.safetensors exists", remedy="replace it with --overwrite",
           plant=saved("out.safetensors", tensors(0))),
    output("an output onto the base", "base --overwrite",
           "the output base is, contains or lies in the input base (", remedy=OTHER),
    output("an output onto a model", "b/../b --overwrite", "is, contains or lies in the input model 'b'", remedy=OTHER),
    output("an output onto a model's file", "b/model.safetensors --overwrite",
           "is, contains or lies in the input model 'b'", remedy=OTHER),
    output("an output around the inputs", ". --overwrite", "is, contains or lies in the input base", remedy=OTHER),
    output("an output with somebody's notes", "out --overwrite",
           "out holds what no merge wrote and --overwrite would delete: ", "notes.txt", remedy="move that away",
           plant=_notes),
    output("a file where a folder is", "out.safetensors --overwrite", "out.safetensors exists and is a folder",
           remedy=OTHER, plant=saved("out.safetensors/model.safetensors", tensors(0))),
    output("a folder where a file is", "out --overwrite", "out exists and is a file", remedy=OTHER,
           plant=bytes_in("out", b"")),
    output("an output inside a file", "notes.txt/out", "notes.txt is a file", remedy=OTHER,
           plant=bytes_in("notes.txt", b"")),
    output("an output in a format that is not written", "out.bin", "the output out.bin would not be a .bin file",
           remedy="name a folder, or a .safetensors file"),
    output("an output for llama.cpp", "out.gguf", "would not be a .gguf file", remedy="name a folder"),
    output("an output that is a recipe", "again.yaml", "would not be a .yaml file", remedy="name a folder"),
)  # fmt: skip
