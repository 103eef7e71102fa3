"""Regular expressions that cannot take for ever.

An expression such as `(a+)+$` takes time that doubles with every letter of a name. Recipes and adapters' configurations
may come from strangers, so each expression has an allowance of time for all names together, a thousand times what an
honest one needs. Python's own `re` cannot be interrupted; `regex` can, and reads the same expressions.
"""

from __future__ import annotations

import re
import time
import warnings
from math import prod

import regex  # type: ignore[import-untyped]

from weft.errors import InputError, shown

ALLOWANCE = 10.0
"""Seconds for all names together."""
LONGEST = 1000
"""Characters of an expression, and of what replaces it."""
_MOST_REPEATS = 10_000
_COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class ExpressionError(ValueError):
    """It is not a regular expression, or one too long; its text says how."""


class Expression:
    r"""A regular expression over tensor names.

    Args:
        text: as Python's `re` reads it.
        called: how messages call it.

    Raises:
        ExpressionError: if it is broken, or longer or with more counted repetitions than any expression needs.

    Example:
        >>> Expression(r".*layers\.[0-7]\..*").fits("model.layers.3.mlp")
        True
    """

    def __init__(self, text: str, called: str = "") -> None:
        self._called = called or repr(text)
        self._left = ALLOWANCE
        if len(text) > LONGEST:
            raise ExpressionError(f"it has {len(text):,} characters, more than {LONGEST:,}")
        repeats = prod(int((most or least or "1")[:9]) or 1 for least, most in _COUNTED.findall(text))
        if repeats > _MOST_REPEATS:
            raise ExpressionError(f"its counted repetitions come to more than {_MOST_REPEATS:,}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # what a later Python may read otherwise
                self._groups = _empty_groups(re.compile(text))  # what `re` refuses, and in its words
            self._compiled = regex.compile(text)
        except RecursionError:
            raise ExpressionError("it is nested too deeply") from None
        except (re.error, regex.error, OverflowError, IndexError, ValueError) as error:
            raise ExpressionError(str(error)) from None

    def fits(self, name: str) -> bool:
        """Whether all of a name matches.

        Raises:
            InputError: if the allowance of time is used up.
        """
        began = time.monotonic()
        try:
            return self._compiled.fullmatch(name, timeout=max(self._left, 0.001)) is not None
        except TimeoutError:
            raise self._too_slow(name) from None
        finally:
            self._left -= time.monotonic() - began

    def replaced(self, name: str, replacement: str) -> str:
        """A name with every match replaced.

        Args:
            name: the name.
            replacement: one that `check_replacement` has seen.

        Raises:
            InputError: if the allowance of time is used up.
        """
        began = time.monotonic()
        try:
            return str(self._compiled.sub(replacement, name, timeout=max(self._left, 0.001)))
        except TimeoutError:
            raise self._too_slow(name) from None
        finally:
            self._left -= time.monotonic() - began

    def check_replacement(self, replacement: str) -> None:
        """See that a replacement fits.

        Raises:
            ExpressionError: if it is too long, broken, or refers to groups that there are not.
        """
        if len(replacement) > LONGEST:
            raise ExpressionError(f"what replaces it has more than {LONGEST:,} characters")
        try:
            self._groups.sub(replacement, "")
        except (re.error, IndexError) as error:
            raise ExpressionError(str(error)) from None

    def _too_slow(self, name: str) -> InputError:
        what = f"{self._called} takes more than {ALLOWANCE:.0f} s to match; it was at {shown(name)}"
        return InputError(what, "write it without a repetition inside a repetition, such as (a+)+")


def _empty_groups(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """An expression with the same groups, all empty, on which replacements can be tried at no cost."""
    names = {number: name for name, number in pattern.groupindex.items()}
    numbers = range(1, pattern.groups + 1)
    return re.compile("".join(f"(?P<{names[n]}>)" if n in names else "()" for n in numbers))
