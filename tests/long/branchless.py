"""A method's scalar function, made to run over arrays of `Bounded` numbers.

A scalar function is plain Python with `if`s; over arrays both branches are evaluated and `bounded.select` takes of each
what the test says. Loops over the models stay loops. What cannot be written so (a `return` inside an `if`) is an error,
never a guess.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

from tests.long import bounded
from weft.kernels.element import is_element
from weft.kernels.elementary import name_of

Function = Callable[..., Any]

_HELPERS = {
    "select_": bounded.select,
    "either_": bounded.either,
    "both_": bounded.both,
    "negated_": bounded.negated,
    "max": bounded.larger,
    "min": bounded.smaller,
}


class BranchError(TypeError):
    """A scalar function is written in a way that cannot run over arrays."""


@cache
def branchless(function: Function) -> Function:
    """The function for arrays.

    Args:
        function: marked with `@element`.

    Raises:
        BranchError: if it cannot be written so.

    Example:
        >>> from weft.algorithms.elections import sign_of
        >>> from tests.long.bounded import SINGLE, World
        >>> branchless(sign_of)(World(SINGLE).number([-3.0, 0.0, 5.0])).value.tolist()
        [-1.0, 0.0, 1.0]
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    definition.returns = None
    for argument in definition.args.args:
        argument.annotation = None
    made = ast.fix_missing_locations(ast.Module([_Rewrite().visit(definition)], []))
    space: dict[str, Any] = {**_known(function), **_HELPERS}
    exec(compile(made, f"<branchless {function.__name__}>", "exec"), space)
    result: Function = space[definition.name]
    return result


def _known(function: Function) -> dict[str, Any]:
    """The numbers and the scalar functions that it refers to."""
    names = set(function.__code__.co_names) | {n for c in _inner(function.__code__) for n in c.co_names}
    values = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {name: _for_arrays(value) for name, value in values.items()}


def _for_arrays(value: Any) -> Any:
    if (name := name_of(value)) is not None:
        return {"exp": bounded.exp, "tanh": bounded.tanh}[name]
    return branchless(value) if is_element(value) else value


def _inner(code: Any) -> list[Any]:
    own = [c for c in code.co_consts if inspect.iscode(c)]
    return [*own, *(deeper for c in own for deeper in _inner(c))]


class _Rewrite(ast.NodeTransformer):
    def __init__(self) -> None:
        self._count = 0

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """`a if test else b`."""
        self.generic_visit(node)
        return _call("select_", node.test, node.body, node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """`a or b or c`."""
        self.generic_visit(node)
        name = "either_" if isinstance(node.op, ast.Or) else "both_"
        result = node.values[0]
        for value in node.values[1:]:
            result = _call(name, result, value)
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """`not a`."""
        self.generic_visit(node)
        return _call("negated_", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """One comparison at a time."""
        if len(node.ops) > 1:
            raise BranchError(f"a chain of comparisons: {ast.unparse(node)}; join two with `and`")
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> list[ast.stmt]:
        """Both branches are run; of what they assign, `select_` takes what the test says."""
        if any(isinstance(n, (ast.Return, ast.Break, ast.Continue)) for n in ast.walk(node)):
            raise BranchError(f"a way out of an if: {ast.unparse(node)}; assign, and return at the end")
        names = sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)})
        self._count += 1
        test, before, then = (f"{word}_{self._count}_" for word in ("test", "before", "then"))
        self.generic_visit(node)
        return [
            _assign([test], node.test),
            _assign([before], _tuple(names)),
            *node.body,
            _assign([then], _tuple(names)),
            _assign(names, _name(before), unpack=True),
            *node.orelse,
            *(_assign([n], _call("select_", _name(test), _item(then, k), _name(n))) for k, n in enumerate(names)),
        ]


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(_name(name), list(arguments), [])


def _tuple(names: list[str]) -> ast.expr:
    return ast.Tuple([_name(name) for name in names], ast.Load())


def _item(name: str, k: int) -> ast.expr:
    return ast.Subscript(_name(name), ast.Constant(k), ast.Load())


def _assign(names: list[str], value: ast.expr, unpack: bool = False) -> ast.stmt:
    targets: list[ast.expr] = [ast.Name(name, ast.Store()) for name in names]
    return ast.Assign([ast.Tuple(targets, ast.Store())] if unpack else targets, value)
