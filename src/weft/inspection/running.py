"""A model, loaded with transformers and run: what it writes after a prompt, how well it predicts texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from weft.errors import InputError

NEW_TOKENS = 20
LONGEST = 512
"""Tokens of a text that are scored."""


class CannotRunError(Exception):
    """The model cannot be loaded, or does not do what is asked of it; the text says why."""


class OtherKindError(CannotRunError):
    """The model loads, but is not of the kind that can be asked this."""


class NoRoomError(OtherKindError):
    """The device has not enough memory, which says nothing of the model."""


@dataclass(frozen=True)
class Text:
    """One thing to predict.

    Attributes:
        target: what is to be predicted.
        source: what an encoder reads; empty for models without one.
    """

    target: str
    source: str = ""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote.

    Attributes:
        text: in words.
        tokens: ids of the new tokens.
        finite: whether every score was a number.
        level: whether, at some token, all scores were equal, so that nothing was chosen.
    """

    text: str
    tokens: tuple[int, ...]
    finite: bool
    level: bool


@dataclass(frozen=True)
class Loaded:
    """A model that can be run.

    Attributes:
        model, tokenizer: as transformers has them.
        missing: tensors that the architecture has and the checkpoint lacks; they hold random numbers.
        unexpected: tensors of the checkpoint that the architecture has no use for.
        misshapen: tensors with another shape than the architecture's, each with both.
    """

    model: Any
    tokenizer: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def has_encoder(self) -> bool:
        """Whether it reads one text and writes another."""
        return bool(self.model.config.is_encoder_decoder)

    @property
    def rows(self) -> int:
        """Among how many tokens it chooses."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def chosen_device(asked: str | None) -> str:
    """The device that models are run on.

    Args:
        asked: what torch calls a device: `cpu`, `cuda`, `cuda:1`, `mps`; None for the fastest that is there.

    Raises:
        InputError: if there is no such device, or torch is not installed.
    """
    _transformers()
    torch = import_module("torch")
    if asked is None:
        mps = getattr(torch.backends, "mps", None)
        return "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=asked).cpu()
    except Exception as error:  # torch has a kind of error for every kind of device
        raise InputError(f"--device {asked}: {_first_line(error)}", "choose cpu, or a device that is there") from None
    return asked


def load(path: Path, *tokenizers: Path, device: str = "cpu", tensors: Mapping[str, Any] | None = None) -> Loaded:
    """Load a model from a folder; nothing is downloaded, and no code from the folder is run.

    Args:
        path: the model's folder.
        *tokenizers: folders whose tokenizer to take, the first that has one; the model's own comes last.
        device: where it shall be run, as torch calls it.
        tensors: the model's tensors, if they are not what lies in the folder.

    Raises:
        InputError: if torch or transformers are not installed.
        CannotRunError: if transformers cannot load it.
    """
    transformers = _transformers()
    with quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
            place = {"config": config, "state_dict": dict(tensors)} if tensors is not None else {}
            model, told = _kind(transformers, config).from_pretrained(
                None if place else path, **place,
                local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
            model.eval().to(device)
            tokenizer = _tokenizer(transformers, *tokenizers, path)
        except Exception as error:  # whatever a model's own code raises is an answer to "does it load?"
            raise _cannot(error) from error
    misshapen = tuple(" ".join(str(part) for part in entry) for entry in sorted(map(_parts, told["mismatched_keys"])))
    return Loaded(model, tokenizer, _sorted(told["missing_keys"]), _sorted(told["unexpected_keys"]), misshapen)


def continued(loaded: Loaded, prompt: str) -> Continuation:
    """What the model writes after a prompt, always choosing the likeliest token.

    Raises:
        OtherKindError: if it is no model that writes.
        CannotRunError: if it fails.
    """
    torch = import_module("torch")
    if not loaded.model.can_generate():
        raise OtherKindError(f"{type(loaded.model).__name__} does not write text")
    inputs = _encoded(loaded, prompt)
    with torch.inference_mode(), quiet(_transformers()):
        try:
            made = loaded.model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1,
                output_logits=True, return_dict_in_generate=True, pad_token_id=_padding(loaded),
            )  # fmt: skip
        except Exception as error:  # as above: a model that cannot be run is what we are looking for
            raise _cannot(error) from error
    scores = torch.cat([step.float() for step in made.logits])
    tokens = made.sequences[0, -len(made.logits) :].tolist()
    finite = not bool((scores.isnan() | scores.isposinf()).any())
    level = finite and bool((scores.amax(-1) == scores.amin(-1)).any())
    return Continuation(loaded.tokenizer.decode(tokens, skip_special_tokens=True), tuple(tokens), finite, level)


def loss(loaded: Loaded, texts: Sequence[Text]) -> float:
    """The mean negative log-likelihood of the texts' tokens, in nats for each token.

    Raises:
        OtherKindError: if it is no language model.
        CannotRunError: if it fails, or no text has a token to predict.
    """
    torch = import_module("torch")
    total, count = 0.0, 0
    with torch.inference_mode(), quiet(_transformers()):
        for text in texts:
            inputs, labels = _scored(loaded, text)
            try:
                made = loaded.model(**inputs)
            except Exception as error:  # as above
                raise _cannot(error) from error
            if "logits" not in made:
                raise OtherKindError(f"{type(loaded.model).__name__} does not predict the next token")
            logits = made.logits[0].float()
            logits = logits if loaded.has_encoder else logits[:-1]
            if logits.shape != (len(labels), logits.shape[-1]) or logits.shape[-1] <= int(max(labels, default=0)):
                raise OtherKindError(f"{type(loaded.model).__name__} does not predict the next token")
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum")) if len(labels) else 0.0
            count += len(labels)
    if count == 0:
        raise CannotRunError("the texts have no token to predict")
    return total / count


def _scored(loaded: Loaded, text: Text) -> tuple[dict[str, Any], Any]:
    """What the model is given, and which token it should find likely at each place."""
    if loaded.has_encoder:
        labels = _encoded(loaded, text.target)["input_ids"]
        return {**_encoded(loaded, text.source), "labels": labels}, labels[0]
    inputs = _encoded(loaded, text.target)
    return inputs, inputs["input_ids"][0][1:]


def _encoded(loaded: Loaded, text: str) -> dict[str, Any]:
    if loaded.tokenizer is None:
        raise CannotRunError("there is no tokenizer")
    made = loaded.tokenizer(text, return_tensors="pt", truncation=True, max_length=LONGEST)
    if made["input_ids"].shape[1] == 0:
        raise CannotRunError("the tokenizer makes no token of the text")
    if int(made["input_ids"].max()) >= loaded.rows:
        raise CannotRunError(f"the tokenizer makes token {int(made['input_ids'].max())}, but there are {loaded.rows}")
    return {key: made[key].to(loaded.model.device) for key in ("input_ids", "attention_mask") if key in made}


def _padding(loaded: Loaded) -> int:
    """Some token to fill up with, which one prompt alone never needs; asked for all the same."""
    end = loaded.model.generation_config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    return int(end) if end is not None else 0


def _kind(transformers: Any, config: Any) -> Any:
    """The class that the config names; one that writes text, where transformers does not know that class."""
    names = getattr(config, "architectures", None) or ()
    known = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    if known is not None:
        return known
    return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM


def _tokenizer(transformers: Any, *places: Path) -> Any:
    for place in dict.fromkeys(places):
        if any((place / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
            return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    return None


def _transformers() -> Any:
    try:
        import_module("torch")
        return import_module("transformers")
    except ImportError:
        what = "--generate and --score need torch and transformers, which are not installed"
        raise InputError(what, 'pip install "weft[torch]" transformers') from None


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without bars and reports of the library's own; what matters in them, we tell."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _parts(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(str(list(p)) if not isinstance(p, str) else p for p in entry)


def _sorted(names: Any) -> tuple[str, ...]:
    return tuple(sorted(names))


def _cannot(error: Exception) -> CannotRunError:
    """What an error of a model's own means for who wanted to run it."""
    if lacks_memory(error):
        return NoRoomError(f"the device has not enough memory ({_first_line(error)}); --device cpu may have")
    return CannotRunError(_first_line(error))


def lacks_memory(error: Exception) -> bool:
    """Whether an error says no more than that the device is full."""
    told = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or any(t in str(error) for t in told)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def uniform(rows: int) -> float:
    """The loss of guessing: every token equally likely.

    Example:
        >>> round(uniform(1000), 3)
        6.908
    """
    return math.log(rows)
