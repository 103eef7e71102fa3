"""Paths that lead nowhere, and files that are not what they seem."""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from tests.mistakes.planting import (
    Mistake,
    Plant,
    adapter,
    bytes_in,
    cut,
    header,
    instead,
    json_in,
    pickled,
    put,
    removed,
    saved,
    sharded,
    together,
)

W = np.ones((2, 3), np.float32)
ENTRY = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976698672\n"


def path(name: str, model: str, *says: str, remedy: str, plant: Plant = lambda place: None) -> Mistake:
    return Mistake(name, says, remedy, {"models": ["a", model]}, plant)


def file(name: str, suffix: str, plant: Plant, *says: str, remedy: str) -> Mistake:
    """A file `m` with a suffix beside the models."""
    return Mistake(name, (f"m{suffix}", *says), remedy, {"models": ["a", f"m{suffix}"]}, plant)


def in_b(name: str, plant: Plant, *says: str, remedy: str) -> Mistake:
    """Something in the folder b."""
    return Mistake(name, says, remedy, plant=plant)


def archive(*members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for member in members:
            made.writestr(member, "")
    return stream.getvalue()


def quantised(method: str, **more: object) -> Plant:
    return json_in("b/config.json", {"quantization_config": {"quant_method": method, **more}})


def _folders(place: Path) -> None:
    for part in ("unet", "vae"):
        saved(f"pipeline/{part}/diffusion_pytorch_model.safetensors", {"w": W})(place)
    json_in("pipeline/model_index.json", {})(place)


PATHS = (
    path("a misspelt folder", "bb", "model 'bb': bb: no such file or folder", remedy="did you mean 'b'?"),
    path("a folder in a folder that is not there", "./runs/b", "no such file or folder", remedy="runs does not exist"),
    Mistake("a base that is not there", ("base: ", "bsae: no such file or folder"), "did you mean 'base'?",
            {"base": "bsae"}),
    path("an empty folder", "c", "model 'c': c: no weights in it", "it holds: nothing",
         remedy="name a folder that holds model.safetensors", plant=lambda place: (place / "c").mkdir()),
    path("a tokenizer without its model", "c", "no weights in it", "it holds: tokenizer.json",
         remedy="name a folder that holds model.safetensors", plant=json_in("c/tokenizer.json", {})),
    path("a pipeline of several models", "pipeline", "no weights in it", "it holds: model_index.json, unet, vae",
         remedy="merge its parts one by one: name one of the folders in it that hold weights: unet, vae",
         plant=_folders),
    path("several checkpoints in a folder", "c", "holds several checkpoints: epoch1.safetensors, epoch2.safetensors",
         remedy="name one of these files instead of the folder",
         plant=together(*(saved(f"c/epoch{k}.safetensors", {"w": W}) for k in (1, 2)))),
    path("a link that leads nowhere", "link", "model 'link': link: is a link to gone, which does not exist",
         remedy="mend the link, or download or copy the file again",
         plant=lambda place: (place / "link").symlink_to("gone")),
    path("a folder of nobody", "~nobody-of-that-name/b",
         "model 'b': ~nobody-of-that-name/b: there is no user 'nobody-of-that-name' here",
         remedy="write the whole path, or ./~nobody-of-that-name/b for a folder of that name"),
    path("a folder that is not there, without a network", "runs/b", "runs/b: HF_HUB_OFFLINE is set, and it is not in",
         remedy="if a folder is meant, check the path: there is no runs/b"),
    path("a name on the Hub without a network", "org/model", "org/model: HF_HUB_OFFLINE is set",
         remedy="unset HF_HUB_OFFLINE, or fetch it while there is a network"),
    path("a file that is no checkpoint", "notes.txt", "notes.txt: not a .safetensors file, nor a torch pickle",
         remedy="convert it, or name the folder that holds the model", plant=bytes_in("notes.txt", b"to do")),
    path("a LoRA adapter for a model", "lora", "lora: this is a LoRA adapter (adapter_config.json), not a model",
         remedy="name both: `path: base` with `adapter: ", plant=adapter()),
    path("the weights of a LoRA adapter for a model", "lora/adapter_model.safetensors",
         "lora: this is a LoRA adapter (adapter_config.json), not a model",
         remedy="name both: `path: base` with `adapter: lora`", plant=adapter()),
    Mistake("a LoRA adapter for a base", ("base: lora: this is a LoRA adapter (adapter_config.json), not a model",),
            "name both: `path: base` with `adapter: lora`", {"base": "lora"}, adapter()),
    path("an adapter of another kind for a model", "lora", "a PEFT adapter of type IA3, not a model",
         remedy="merge_and_unload", plant=adapter(peft_type="IA3")),
)  # fmt: skip

SAFETENSORS = (
    in_b("a download that broke off", cut("b/model.safetensors", 20), "b/model.safetensors", "bytes",
         remedy="download or save it again"),
    in_b("weights that are a link to nothing",
         instead("b", lambda place: (place / "b/model.safetensors").symlink_to("../blobs/0123")),
         "model 'b': b/model.safetensors: is a link to ../blobs/0123, which does not exist",
         remedy="mend the link, or download or copy the file again"),
    in_b("a file with nothing in it", bytes_in("b/model.safetensors", b""), "b/model.safetensors: the file is empty",
         remedy="download it again"),
    in_b("a pointer of Git LFS", bytes_in("b/model.safetensors", POINTER),
         "b/model.safetensors: this is a Git LFS pointer in place of the weights of 4,976,698,672 bytes",
         remedy="run `git lfs pull` in "),
    in_b("a web page", bytes_in("b/model.safetensors", b"<!DOCTYPE html><html><body>Log in</body></html>"),
         "b/model.safetensors: this is a web page", remedy="the address says `resolve`, not `blob`"),
    in_b("a server's message", bytes_in("b/model.safetensors", b'{"error":"Repository is gated"}'),
         "this is a server's message (JSON)", remedy="a gated model needs a token"),
    in_b("a pickle under another suffix", instead("b", pickled("b/model.safetensors", lambda: {"w": torch.ones(2)})),
         "b/model.safetensors: this is a torch pickle, not safetensors", remedy="give it the suffix .bin"),
    file("a header longer than its file", ".safetensors", bytes_in("m.safetensors", b"\xff" * 64),
         "not a safetensors file, or cut off: 64 bytes", remedy="download or save it again"),
    file("a header that is no JSON", ".safetensors", bytes_in("m.safetensors", b"\x04" + bytes(7) + b"{'a}"),
         "the header is not valid JSON", remedy="the file is damaged"),
    file("tensors that overlap", ".safetensors",
         header("m.safetensors", {"u": ENTRY, "v": {**ENTRY, "data_offsets": [8, 20]}}, 20),
         "tensor 'v' at byte 8 overlaps 'u', which ends at 12", remedy="the file is damaged"),
    file("a tensor that needs more bytes", ".safetensors", header("m.safetensors", {"u": {**ENTRY, "shape": [4]}}),
         "tensor 'u': float32 [4] needs 16 bytes", remedy="the file is damaged"),
    file("a number format that is not known", ".safetensors",
         header("m.safetensors", {"u": {**ENTRY, "dtype": "F24"}}), "tensor 'u': unknown dtype 'F24'",
         remedy="known are "),
    file("two tensors of one name", ".safetensors",
         bytes_in("m.safetensors", b"\x11" + bytes(7) + b'{"u": 1, "u": 2} '), "'u' occurs twice",
         remedy="the file is damaged"),
)  # fmt: skip

SHARDS = (
    in_b("a shard that was not downloaded", together(sharded("b"), removed("b/model-00001-of-00001.safetensors")),
         "b/model.safetensors.index.json: 1 of 1 shards are missing: model-00001-of-00001.safetensors",
         remedy="download them"),
    in_b("a shard that is a link to nothing",
         together(sharded("b"), removed("b/model-00001-of-00001.safetensors"),
                  lambda place: (place / "b/model-00001-of-00001.safetensors").symlink_to("../blobs/0123")),
         "b/model-00001-of-00001.safetensors: is a link to ../blobs/0123, which does not exist",
         remedy="mend the link, or download or copy the file again"),
    in_b("an index that names a tensor too many", sharded("b", {"lm_head": "model-00001-of-00001.safetensors"}),
         "says that 'lm_head' is in model-00001-of-00001.safetensors, which does not hold it",
         remedy="download the model again"),
    in_b("an index that leaves a tensor out", sharded("b", {"head": ""}),
         "1 tensors are in the shards but not in the index: head", remedy="remove stale shards"),
    in_b("an index that leads out of its folder", sharded("b", {"head": "../base/model.safetensors"}),
         "shard '../base/model.safetensors' is not a plain file name", remedy="an index may only name files beside it"),
    in_b("an index without a map", together(sharded("b"), json_in("b/model.safetensors.index.json", {"metadata": {}})),
         "has no weight_map of tensor names to file names", remedy="download it again"),
    in_b("an index that is no JSON", together(sharded("b"), bytes_in("b/model.safetensors.index.json", b"{")),
         "b/model.safetensors.index.json: cannot be read as JSON", remedy="download it again"),
)  # fmt: skip

PICKLES = (
    file("a pickle that would run code", ".bin",
         pickled("m.bin", lambda: {"w": torch.ones(2), "args": argparse.Namespace()}),
         "loading it may run code, so it was not loaded: besides tensors it asks for argparse.Namespace",
         remedy="load it where you trust it (torch.load), and save its tensors"),
    file("a whole module in a pickle", ".pt", pickled("m.pt", lambda: torch.nn.Linear(2, 2)),
         "loading it may run code", "torch.nn.modules.linear.Linear",
         remedy="save its tensors with safetensors.torch.save_file"),
    file("two models in a pickle", ".pt",
         pickled("m.pt", lambda: {"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}),
         "holds several dicts of tensors: ['model'], ['ema']", remedy="save the one to merge by itself"),
    file("no tensors in a pickle", ".pt", pickled("m.pt", lambda: {"epoch": 3}),
         "holds no dict of tensors but a dict with 'epoch'", remedy="save the state dict"),
    file("a pickle that broke off", ".bin", together(pickled("m.bin", lambda: {"w": torch.ones(2)}), cut("m.bin", 100)),
         "a zip archive, as torch.save writes them, that is damaged or was cut off", remedy="download it again"),
    file("safetensors under the suffix of a pickle", ".bin", saved("m.bin", {"w": W}),
         "this is a safetensors file by its content", remedy="give it the suffix .safetensors"),
    file("a TorchScript program", ".pt", bytes_in("m.pt", archive("m/data.pkl", "m/constants.pkl")),
         "this is a TorchScript program", remedy="torch.jit.load(FILE).state_dict()"),
)  # fmt: skip

FOREIGN = (
    file("llama.cpp's format", ".gguf", bytes_in("m.gguf", b"GGUF\x03\0\0\0"), "this is GGUF",
         remedy="merge the 16-bit model that it was made from"),
    file("TensorFlow's format", ".h5", bytes_in("m.h5", b"\x89HDF\r\n\x1a\n"), "TensorFlow or Keras weights (HDF5)",
         remedy="load it with transformers and save it again"),
    file("Flax weights", ".msgpack", bytes_in("m.msgpack", b"\x81\xa6params"), "this is Flax weights",
         remedy="load it with transformers and save it again"),
    file("ONNX", ".onnx", bytes_in("m.onnx", b"\x08\x07"), "this is ONNX, a format for inference",
         remedy="merge the model that it was exported from"),
    file("numpy's arrays", ".npz", bytes_in("m.npz", archive("w.npy")), "this is numpy arrays",
         remedy="safetensors.numpy.save_file"),
    file("an archive", ".bin", bytes_in("m.bin", archive("model.safetensors")), "a zip archive, not a checkpoint",
         remedy="unpack it"),
    in_b("a folder for llama.cpp", instead("b", bytes_in("b/model-q4.gguf", b"GGUF")),
         "b: holds no safetensors or torch weights, but model-q4.gguf", remedy="merge the 16-bit model"),
    in_b("a model that GPTQ quantised", quantised("gptq", bits=4),
         "b: is quantised with GPTQ, 4 bit (config.json)", remedy="then quantise the result with GPTQModel"),
    in_b("a model that AWQ quantised", quantised("awq", bits=4),
         "b: is quantised with AWQ, 4 bit (config.json)", remedy="merge the 16-bit model that it was made from"),
    in_b("a model that bitsandbytes quantised", quantised("bitsandbytes", load_in_8bit=True),
         "is quantised with bitsandbytes, 8 bit (config.json)", remedy="model.dequantize()"),
    in_b("quantised tensors that no configuration tells of",
         put("b", layers__0__qweight=W.astype(np.int32), layers__0__scales=W, layers__0__qzeros=W.astype(np.int32)),
         "is quantised with AWQ or GPTQ (tensor 'layers.0.qweight')", remedy="merge the 16-bit model"),
)  # fmt: skip

ALL = (*PATHS, *SAFETENSORS, *SHARDS, *PICKLES, *FOREIGN)
