"""Collect what an arm may set, one file for each option.

`OPTIONS` holds the `OPTION` of every module in this folder. To add an option, add a file: declare a
subclass of one of the classes in `nbkit.lab.runs.option` and assign an instance to `OPTION`.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from nbkit.lab.runs.option import OptimizerOption, Option

Kind = TypeVar("Kind", bound=Option)


def collect_options() -> list[Option]:
    """Collect the option of every module in this package, in the order of the file names."""
    found: list[Option] = []
    for module in iter_modules(__path__):
        found.append(import_module(f"{__name__}.{module.name}").OPTION)
    return found


OPTIONS = collect_options()


def select_options(kind: type[Kind]) -> list[Kind]:
    """Select the options that act in one way, such as every LossOption."""
    return [option for option in OPTIONS if isinstance(option, kind)]


def find_optimizers() -> dict[str, OptimizerOption]:
    """Find what an arm may write as `optimizer`, each with the option that trains with it."""
    found: dict[str, OptimizerOption] = {}
    for option in select_options(OptimizerOption):
        for name in option.optimizers:
            found[name] = option
    return found
