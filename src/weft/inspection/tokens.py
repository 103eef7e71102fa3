"""Does the tokenizer fit the embedding, and does the chat template parse?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from weft.errors import InputError, listed
from weft.inspection.configuration import INPUT_EMBEDDINGS, called
from weft.inspection.findings import Finding, Report, from_problems
from weft.inspection.subject import Subject, read_json

Ids = Mapping[int, str]
"""Token ids, each with the token or, where only their number is known, with what it is called."""

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "unk_token_id")
_RANKED = re.compile(rb"[A-Za-z0-9+/=]+ \d+\r?\n")
_AUTHORITATIVE = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")
"""Where there is a `tokenizer.json`, the vocabulary in older files may be larger than what the model uses."""
_SPARE_ROWS, _SPARE_SHARE = 1000, 0.1
"""Rows beyond the last token are padding up to this number, or to this share of the rows."""


def tokens_fit(subject: Subject) -> Iterator[Finding]:
    """Every token has a row in the input embedding, and not too many rows have no token."""
    if subject.folder is None:
        return
    highest: dict[Path, tuple[int, str]] = {}
    for path, ids in _vocabularies(_tokenizer_folder(subject, subject.folder)):
        if isinstance(ids, Finding):
            yield ids
        elif ids:
            last = max(ids)
            highest[path] = last, ids[last]
    own = {path: last for path, last in highest.items() if path.name in _AUTHORITATIVE}
    highest = own if any(path.name == "tokenizer.json" for path in own) else highest
    rows = [spec for spec in called(subject.tensors, INPUT_EMBEDDINGS) if len(spec.shape) == 2]
    if rows:
        widest = max(rows, key=lambda spec: spec.shape[0])
        where = f"the embedding {widest.name!r} ({subject.file_of(widest.name)}) has {widest.shape[0]} rows"
        yield from _too_many(highest, widest.shape[0], where)
        yield from _too_few(highest, widest.shape[0], where)
        yield from _special(subject, widest.shape[0], where)


def _tokenizer_folder(subject: Subject, folder: Path) -> Path:
    """Where the tokenizer lies: in a pipeline, `tokenizer_2` is that of `text_encoder_2`."""
    return subject.whole / folder.name.replace("text_encoder", "tokenizer") if subject.whole else folder


def _too_many(highest: Mapping[Path, tuple[int, str]], rows: int, where: str) -> Iterator[Finding]:
    for path, (last, token) in highest.items():
        if last >= rows:
            what = f"{path}: token {token!r} has id {last}, but {where}"
            yield Finding("error", "tokenizer", what, "use the tokenizer of the model whose embedding was kept")


def _too_few(highest: Mapping[Path, tuple[int, str]], rows: int, where: str) -> Iterator[Finding]:
    if not highest:
        return
    path, (last, _) = max(highest.items(), key=lambda item: item[1][0])
    spare = rows - last - 1
    if spare > max(_SPARE_ROWS, _SPARE_SHARE * rows):
        what = f"{path}: token ids end at {last}, but {where}: {spare} rows belong to no token"
        yield Finding("warning", "tokenizer", what, "is it the tokenizer of another model?")


def _special(subject: Subject, rows: int, where: str) -> Iterator[Finding]:
    """Ids that config and generation config give for special tokens."""
    assert subject.folder is not None
    for name in ("config.json", "generation_config.json"):
        path = subject.folder / name
        try:
            parsed = read_json(path) if path.is_file() else {}
        except InputError as error:
            if name != "config.json":
                yield from from_problems(error, "config")
            continue
        for key in _SPECIAL:
            told = parsed.get(key) if isinstance(parsed, dict) else None
            for value in told if isinstance(told, list) else [told]:
                if isinstance(value, int) and value >= rows:
                    what = f"{path}: {key} is {value}, but {where}"
                    yield Finding("warning", "tokenizer", what, "correct the id, or use the file of the right model")


def _vocabularies(folder: Path) -> Iterator[tuple[Path, Ids | Finding]]:
    """Every file that lists tokens, with the ids in it or what is wrong with it."""
    for name, read in _READERS.items():
        path = folder / name
        if path.is_file():
            try:
                yield path, read(path)
            except InputError as error:
                for finding in from_problems(error, "tokenizer"):
                    yield path, finding
            except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
                what = f"{path}: is not a vocabulary: {error or type(error).__name__}"
                yield path, Finding("error", "tokenizer", what, "copy it from the base model")


def _fast(path: Path) -> Ids:
    """`tokenizer.json`: a vocabulary by name, or for unigram models in order, and the tokens added to it."""
    parsed = read_json(path)
    vocabulary = parsed["model"].get("vocab", {})
    if isinstance(vocabulary, list):
        ids = {place: str(entry[0]) for place, entry in enumerate(vocabulary)}
    else:
        ids = _by_id(path, vocabulary)
    return ids | {int(token["id"]): str(token["content"]) for token in parsed.get("added_tokens") or ()}


def _by_id(path: Path, vocabulary: Mapping[str, int]) -> dict[int, str]:
    ids = {int(place): str(token) for token, place in vocabulary.items()}
    if len(ids) < len(vocabulary):
        twice = [token for token, place in vocabulary.items() if ids[place] != token]
        what = f"{path}: several tokens have one id: {listed(f'{t!r} and {ids[vocabulary[t]]!r}' for t in twice)}"
        raise InputError(what, "copy it from the base model")
    return ids


def _map(path: Path) -> Ids:
    vocabulary = read_json(path)
    one_for_each_language = all(isinstance(value, dict) for value in vocabulary.values())
    return {} if one_for_each_language else _by_id(path, vocabulary)


def _lines(path: Path) -> Ids:
    return dict(enumerate(path.read_text("utf-8").splitlines()))


def _added(path: Path) -> Ids:
    return {int(place): str(token) for token, place in read_json(path).items()}


def _decoder(path: Path) -> Ids:
    tokens = read_json(path).get("added_tokens_decoder") or {}
    return {int(place): str(token["content"]) for place, token in tokens.items()}


def _pieces(path: Path) -> Ids:
    """A sentencepiece model: a protocol buffer whose first field, repeated, is a piece; or lines of token and rank."""
    content = path.read_bytes()
    if _RANKED.match(content):
        return {int(line.split()[1]): line.split()[0].decode() for line in content.splitlines() if line}
    data = memoryview(content)
    ids: dict[int, str] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            _, place = _varint(data, place)
            continue
        size, place = _varint(data, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
        if place + size > len(data):
            raise ValueError("it was cut off")
        if field == 1:
            ids[len(ids)] = f"piece {len(ids)}"
        place += size
    return ids


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | data[place] << shift, place + 1


_READERS: Mapping[str, Callable[[Path], Ids]] = {
    "tokenizer.json": _fast,
    "vocab.json": _map,
    "vocab.txt": _lines,
    "added_tokens.json": _added,
    "tokenizer_config.json": _decoder,
    "tokenizer.model": _pieces,
    "spiece.model": _pieces,
    "sentencepiece.bpe.model": _pieces,
}


def templates_parse(subject: Subject) -> Report:
    """Chat templates are valid Jinja."""
    templates = dict(_templates(subject.folder)) if subject.folder else {}
    if not templates:
        return Report()
    try:
        parse = _parser()
    except ImportError:
        return Report(skipped=("the chat template was not parsed: install jinja2",))
    findings = []
    for where, text in templates.items():
        fault = parse(text)
        if fault:
            remedy = "copy the template from the base model"
            findings.append(Finding("error", "template", f"{where}: is not valid Jinja: {fault}", remedy))
    return Report(tuple(findings))


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    for path in (folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))):
        if path.is_file():
            yield str(path), path.read_text("utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        path = folder / name
        try:
            parsed = read_json(path) if path.is_file() else {}
        except InputError:
            continue
        template = parsed.get("chat_template") if isinstance(parsed, dict) else None
        if isinstance(template, str):
            yield f"{path}: chat_template", template
        for entry in template if isinstance(template, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                yield f"{path}: chat_template {entry.get('name')!r}", entry["template"]


def _parser() -> Callable[[str], str]:
    """A function that says what is wrong with a template; empty if nothing is."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """The block by which chat templates mark what the assistant said."""

        tags = {"generation"}  # noqa: RUF012 - as the base class declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def fault(text: str) -> str:
        try:
            environment.parse(text)
        except jinja2.TemplateSyntaxError as error:
            return f"line {error.lineno}: {error.message}"
        return ""

    return fault
