"""From a scalar function to source that a compiler likes: loops over models written out, literals in one precision.

LLVM stops vectorising when it stops unrolling, which happens at about eight models.
Unrolling in the source keeps the cost per input flat, and needs no process-wide compiler option.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType
from typing import Any

from weft.kernels import elementary
from weft.kernels.element import ElementError, Scalar, is_element

_ALLOWED_BUILTINS = frozenset({"abs", "min", "max", "len", "range", "zip", "enumerate", "tuple", "float"})

_LOOPS = (ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""Loops that may run any number of times, or take memory."""


def specialised(function: Scalar, models: int) -> str:
    """Source of `function` for a given number of models.

    Args:
        function: a function marked with `@element`.
        models: how many values every per-model tuple holds.

    Returns:
        The source of one undecorated function, in which no loop over models is left and every float literal is
        written `real(literal)`.

    Raises:
        SyntaxError: with file and line, if there is another loop than over the models, or one of those contains
            `break`, `continue` or `else`.
        ElementError: if this is no function that was written with `def`.

    Example:
        >>> from weft.kernels.element import element
        >>> from weft.algorithms.linear import weighted_average
        >>> "for " in specialised(weighted_average, models=2)
        False
    """
    definition = _definition(function)
    _strip(definition)
    try:
        return ast.unparse(ast.fix_missing_locations(_Unroll(models).visit(definition)))
    except SyntaxError as error:
        error.filename = function.__code__.co_filename
        raise


def _definition(function: Scalar) -> ast.FunctionDef:
    """What was written, every part with its line in the file."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        definition = ast.parse(text).body[0]
    except (OSError, SyntaxError):  # typed into an interpreter, or a lambda in the middle of something
        raise ElementError(
            f"the source of {function.__qualname__} cannot be read: write it in a file", function
        ) from None
    if not isinstance(definition, ast.FunctionDef):
        raise ElementError(f"{function.__qualname__} is not a function definition: write it with `def`", function)
    ast.increment_lineno(definition, function.__code__.co_firstlineno - 1)
    return definition


def _refusal(text: str, node: ast.expr | ast.stmt) -> SyntaxError:
    error = SyntaxError(text)
    error.lineno = node.lineno
    return error


def dependencies(function: Scalar) -> list[Scalar]:
    """The `@element` functions that this one calls, callees first, each once."""
    found: dict[Scalar, None] = {}
    for name in _global_names(function):
        value: Any = function.__globals__.get(name)
        if is_element(value):
            found.update(dict.fromkeys([*dependencies(value), value]))
    return list(found)


def constants(function: Scalar) -> dict[str, float]:
    """The module-level numbers that this function reads."""
    names = _global_names(function)
    values = {name: function.__globals__.get(name) for name in names}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
    known = {*numbers, *elementary_functions(function), *_ALLOWED_BUILTINS}
    strangers = [n for n in names if n not in known and not is_element(values[n])]
    if strangers:
        text = (
            f"{function.__qualname__} uses {strangers[0]!r}, which cannot be compiled: "
            f"use numbers, functions marked @element, {' and '.join(elementary.FUNCTIONS.values())} of "
            f"weft.authoring, and {', '.join(sorted(_ALLOWED_BUILTINS))}"
        )
        raise ElementError(text, function, _line_of(strangers[0], function))
    return numbers


def _line_of(name: str, function: Scalar) -> int:
    """Where a function uses a name."""
    parts = [node for node in ast.walk(_definition(function)) if isinstance(node, (ast.Name, ast.Attribute))]
    return next((part.lineno for part in parts if name in (getattr(part, "id", ""), getattr(part, "attr", ""))), 0)


def elementary_functions(function: Scalar) -> dict[str, str]:
    """The exponential functions that this one calls: what it calls them, and their names."""
    named = ((name, elementary.name_of(function.__globals__.get(name))) for name in _global_names(function))
    return {name: known for name, known in named if known}


def _global_names(function: Scalar) -> list[str]:
    def names(code: CodeType) -> Iterator[str]:
        yield from code.co_names
        for const in code.co_consts:
            if isinstance(const, CodeType):
                yield from names(const)

    known = (n for n in names(function.__code__) if n in function.__globals__ or hasattr(builtins, n))
    return list(dict.fromkeys(known))


def _strip(definition: ast.FunctionDef) -> None:
    definition.decorator_list = []
    definition.returns = None
    for argument in (*definition.args.args, *definition.args.kwonlyargs):
        argument.annotation = None
    if ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]


class _Unroll(ast.NodeTransformer):
    def __init__(self, models: int) -> None:
        self.models = models

    def visit_For(self, node: ast.For) -> ast.For | list[ast.stmt]:
        """A loop over models becomes one copy of its body per model."""
        if node.orelse or any(isinstance(n, (ast.Break, ast.Continue)) for n in ast.walk(node)):
            raise _refusal("a loop over models has no break, continue or else", node)
        unrolled: list[ast.stmt] = []
        for names in self._iterations(node.target, node.iter):
            for statement in node.body:
                result = self.visit(_Substitute(names).visit(copy.deepcopy(statement)))
                unrolled.extend(result if isinstance(result, list) else [result])
        return unrolled

    def visit(self, node: ast.AST) -> Any:
        """Refuse every other loop."""
        if isinstance(node, _LOOPS):
            what = f"`{ast.unparse(node).splitlines()[0]}` is a loop that cannot be compiled"
            raise _refusal(f"{what}: only `for` and `tuple(...)` over the models can", node)
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """`tuple(... for x in models)` becomes a tuple display, `len(models)` a number."""
        if isinstance(node.func, ast.Name) and node.func.id == "len":
            return _real(float(self.models))
        if isinstance(node.func, ast.Name) and node.func.id == "tuple" and isinstance(node.args[0], ast.GeneratorExp):
            return self._tuple(node.args[0])
        self.generic_visit(node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A float literal takes the precision of the merge."""
        return _real(node.value) if isinstance(node.value, float) else node

    def _tuple(self, generator: ast.GeneratorExp) -> ast.Tuple:
        (loop,) = generator.generators
        if loop.ifs:
            raise _refusal("a tuple over models has no condition", generator)
        every = self._iterations(loop.target, loop.iter)
        return ast.Tuple([self.visit(_Substitute(n).visit(copy.deepcopy(generator.elt))) for n in every], ast.Load())

    def _iterations(self, target: ast.expr, iterable: ast.expr) -> Iterator[dict[str, ast.expr]]:
        for k in range(self.models):
            yield dict(_bindings(target, iterable, k))


def _bindings(target: ast.expr, iterable: ast.expr, k: int) -> Iterator[tuple[str, ast.expr]]:
    """What each loop variable stands for in the k-th iteration."""
    called = iterable.func.id if isinstance(iterable, ast.Call) and isinstance(iterable.func, ast.Name) else ""
    if called in ("zip", "enumerate") and isinstance(target, ast.Tuple) and isinstance(iterable, ast.Call):
        if iterable.keywords or (called == "enumerate" and len(iterable.args) != 1):
            raise _refusal(f"cannot write out a loop over {ast.unparse(iterable)}", iterable)
        sources: list[ast.expr] = list(iterable.args)
        if called == "enumerate":
            yield from _bindings(target.elts[0], ast.parse("range(len(models))", mode="eval").body, k)
        for name, source in zip(target.elts[called == "enumerate" :], sources, strict=True):
            yield from _bindings(name, source, k)
    elif isinstance(target, ast.Name):
        if called == "range":
            _check_range(iterable)
            yield target.id, ast.Constant(k)
        elif isinstance(iterable, ast.Name):
            yield target.id, ast.Subscript(copy.deepcopy(iterable), ast.Constant(k), ast.Load())
        else:
            raise _refusal(f"cannot write out a loop over {ast.unparse(iterable)}: iterate over the models", iterable)
    else:
        raise _refusal(f"cannot write out a loop over {ast.unparse(iterable)}", iterable)


def _check_range(iterable: ast.expr) -> None:
    """The only range is that of the models."""
    if not (
        isinstance(iterable, ast.Call)
        and len(iterable.args) == 1
        and isinstance(iterable.args[0], ast.Call)
        and ast.unparse(iterable.args[0].func) == "len"
    ):
        raise _refusal(f"cannot write out a loop over {ast.unparse(iterable)}: write range(len(models))", iterable)


class _Substitute(ast.NodeTransformer):
    def __init__(self, names: dict[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A loop variable becomes what it stands for."""
        if node.id in self.names and not isinstance(node.ctx, ast.Load):
            raise _refusal(f"the loop variable {node.id!r} is assigned to", node)
        return copy.deepcopy(self.names.get(node.id, node))


def _real(value: float) -> ast.expr:
    return ast.Call(ast.Name("real", ast.Load()), [ast.Constant(value)], [])
