"""Add model: a function that builds this arm's model in place of make_model."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

from nbkit.lab.runs.option import MakeModel, Rule, StartOption


class ModelBuilder(StartOption):
    """Build this arm's model from the run's seed by a function that the arm gives."""

    defaults: ClassVar = {"model": None}

    def choose_builder(self, rule: Rule) -> MakeModel | None:
        """Return the arm's function."""
        builder: MakeModel | None = rule["model"]
        return builder

    def group_runs(self, rule: Rule) -> Hashable:
        """Keep models of different functions in different programs."""
        # Models from two functions may print alike and still have different forwards.
        return id(rule["model"])


OPTION = ModelBuilder()
