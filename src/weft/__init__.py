"""Weave several fine-tuned neural networks into one, without training.

The public list is `__all__`. Names are resolved when they are first used, so that `import weft` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weft.version import __version__

if TYPE_CHECKING:
    from weft.algorithms.method import Method
    from weft.algorithms.registry import method, methods
    from weft.engine.forecast import Forecast
    from weft.engine.merging import Report, merge, merge_to, plan
    from weft.engine.progress import Progress
    from weft.errors import InputError, MergeError, Problem, WeftError
    from weft.inspection.findings import Verdict
    from weft.inspection.verify import verify
    from weft.recipes.loading import load_recipe
    from weft.recipes.schema import Recipe
    from weft.statistics.fisher import fisher
    from weft.statistics.gradient import gradient
    from weft.statistics.gram import gram
    from weft.statistics.importance import importance

_HOME = {
    "merge": "weft.engine.merging",
    "merge_to": "weft.engine.merging",
    "plan": "weft.engine.merging",
    "Forecast": "weft.engine.forecast",
    "Report": "weft.engine.merging",
    "Progress": "weft.engine.progress",
    "methods": "weft.algorithms.registry",
    "method": "weft.algorithms.registry",
    "Method": "weft.algorithms.method",
    "Recipe": "weft.recipes.schema",
    "fisher": "weft.statistics.fisher",
    "gradient": "weft.statistics.gradient",
    "gram": "weft.statistics.gram",
    "importance": "weft.statistics.importance",
    "load_recipe": "weft.recipes.loading",
    "verify": "weft.inspection.verify",
    "Verdict": "weft.inspection.findings",
    "WeftError": "weft.errors",
    "InputError": "weft.errors",
    "MergeError": "weft.errors",
    "Problem": "weft.errors",
}

__all__ = [
    "Forecast",
    "InputError",
    "MergeError",
    "Method",
    "Problem",
    "Progress",
    "Recipe",
    "Report",
    "Verdict",
    "WeftError",
    "__version__",
    "fisher",
    "gradient",
    "gram",
    "importance",
    "load_recipe",
    "merge",
    "merge_to",
    "method",
    "methods",
    "plan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
