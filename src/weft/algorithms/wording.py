"""Pydantic's findings in words that a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_KINDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = MappingProxyType(
    {
        "missing": lambda context: "is missing",
        "greater_than_equal": lambda context: f"should be at least {context['ge']:g}",
        "greater_than": lambda context: f"should be more than {context['gt']:g}",
        "less_than_equal": lambda context: f"should be at most {context['le']:g}",
        "literal_error": lambda context: f"should be {context['expected']}",
        "finite_number": lambda context: "should be a finite number",
        "float_parsing": lambda context: "should be a number",
        "float_type": lambda context: "should be a number",
        "bool_parsing": lambda context: "should be true or false",
        "bool_type": lambda context: "should be true or false",
        "string_type": lambda context: "should be text",
        "tuple_type": lambda context: "should be a list",
        "dict_type": lambda context: "should be a map",
        "model_type": lambda context: "should be a map",
        "model_attributes_type": lambda context: "should be a map",
        "too_short": lambda context: "should not be empty",
    }
)


def worded(item: Mapping[str, Any]) -> str:
    """What one of pydantic's errors means.

    Args:
        item: an element of `ValidationError.errors()`.

    Example:
        >>> worded({"type": "less_than_equal", "ctx": {"le": 1.0}, "msg": "Input should be less than or equal to 1"})
        'should be at most 1'
    """
    kind = _KINDS.get(item["type"])
    return kind(item.get("ctx", {})) if kind else str(item["msg"]).removeprefix("Value error, ")
