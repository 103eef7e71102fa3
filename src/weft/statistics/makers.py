"""Methods that make something of a parameter and of no example, seen as modules, so that they can be watched."""

from __future__ import annotations

from typing import Any, final

from torch import nn

_METHOD = "compute_bias"
_TABLE = "relative_attention_bias"


@final
class BiasMaker(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The relative position biases of T5 and its relatives: `attention.compute_bias`, one row for all examples.

    Their table is looked up without examples, and what is looked up is turned about before examples come in; only at
    the method's end can it be repeated for each.

    Args:
        attention: a module that `makes_bias`.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The method, as its class defines it."""
        return getattr(type(self.attention), _METHOD)(self.attention, *args, **kwargs)

    def put(self) -> None:
        """Have calls of the method go through this module."""
        self.attention.__dict__[_METHOD] = self.__call__

    def take_away(self) -> None:
        """Have them go to the class again."""
        self.attention.__dict__.pop(_METHOD, None)


def makes_bias(module: Any) -> bool:
    """Whether a module has such a method and its own table."""
    return hasattr(type(module), _METHOD) and isinstance(module._modules.get(_TABLE), nn.Embedding)


def bias_makers(module: Any) -> dict[int, tuple[str, BiasMaker]]:
    """For every such table in a model, by its identity, the name of the parameter in the maker, and the maker."""
    name = f"attention.{_TABLE}.weight"
    parts = [part for part in module.modules() if makes_bias(part)]
    return {id(part._modules[_TABLE]): (name, BiasMaker(part)) for part in parts}
