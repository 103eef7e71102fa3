"""Writes `docs/methods/`: a page for every method, from its class, and a list of them. Run by `make docs`."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from weft.algorithms.describing import described
from weft.algorithms.method import Law, Method
from weft.algorithms.registry import METHODS

PAGES = Path(__file__).parent / "methods"
NOTE = "<!-- Made from the method's class by `make docs`; change it there. -->\n"


def pages() -> dict[str, str]:
    """All files of the folder, by name."""
    made = {f"{_file(name)}.md": page(kind) for name, kind in METHODS.items()}
    return {"README.md": overview(), **made}


def overview() -> str:
    """The list of all methods."""
    rows = [
        f"| [`{told['name']}`]({_file(told['name'])}.md) | {told['title']} | {told['needs']} | {told['place']} |"
        for told in map(described, METHODS.values())
    ]
    head = [
        "| method | what it does | needs | stands as |",
        "|---|---|---|---|",
    ]
    text = "What merges, in the words of `weft methods`. How to write one: [writing a method](../writing-a-method.md)."
    return "\n".join(["# Methods", "", NOTE, text, "", *head, *rows, ""])


def page(kind: type[Method]) -> str:
    """One method's page."""
    told = described(kind)
    parts = [
        f"# {kind.name}: {kind.title}",
        NOTE + f"\n`{kind.formula}`",
        f"**Needs**: {told['needs'] or 'nothing but models'}. **Stands as**: `{told['place']}`.",
        *_body(kind),
        "## Parameters",
        "\n".join(_parameters(kind)),
        "## What holds",
        "\n".join(_laws(kind)) or "Nothing is promised.",
    ]
    return "\n\n".join(parts) + "\n"


def _body(kind: type[Method]) -> Iterator[str]:
    """The docstring in Markdown: formulas between dollars, the example as code."""
    text, _, example = (inspect.getdoc(kind) or "").partition("\n\nExample:\n")
    text = re.sub(r"\.\. math::[ \n]*(.*?)(?=\n\n|\Z)", lambda found: _formula(found[1]), text, flags=re.DOTALL)
    yield text.strip()
    yield "## Example"
    yield f"```python\n{inspect.cleandoc(example)}\n```"


def _formula(text: str) -> str:
    return "$$\n" + "\n".join(line.strip() for line in text.strip().splitlines()) + "\n$$"


def _parameters(kind: type[Method]) -> Iterator[str]:
    yield "| parameter | default | allowed | meaning |"
    yield "|---|---|---|---|"
    for told in described(kind)["parameters"]:
        default = json.dumps(told["default"]).strip('"')
        allowed, meaning = told["allowed"].replace("|", r"\|"), told["description"].replace("|", r"\|")
        many = " (per model)" if told["per_model"] else ""
        yield f"| `{told['name']}` | `{default}` | {allowed} | {meaning}{many} |"


def _laws(kind: type[Method]) -> Iterator[str]:
    for law in (law for law in Law if law in kind.laws):
        given = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in kind.laws[law].items())
        yield f"* {law.value[0].upper()}{law.value[1:]}{f', with {given}' if given else ''}."


def _file(name: str) -> str:
    return name.replace("+", "_plus")


def main() -> int:
    """Write the pages, or with `--check` say which are not up to date."""
    wanted = pages()
    if "--check" in sys.argv:
        stale = [name for name in wanted if not (PAGES / name).exists() or (PAGES / name).read_text() != wanted[name]]
        stale += [path.name for path in PAGES.glob("*.md") if path.name not in wanted]
        print("\n".join(f"docs/methods/{name} is not up to date: run `make docs`" for name in stale))
        return int(bool(stale))
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        path.unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
