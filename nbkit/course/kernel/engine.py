"""Provide papermill's engine "nbkit", in which no run stalls and a failed run looks failed.

    papermill --engine nbkit lesson.ipynb out.ipynb

papermill loads this module while it starts, when half of papermill is not imported yet. Therefore
papermill is imported only when the engine is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode


class NbkitEngine:
    """Offer what papermill expects of an engine; `nbkit.course.kernel.client` does the work."""

    @staticmethod
    def execute_notebook(nb: NotebookNode, kernel_name: str, **options: Any) -> NotebookNode:
        """Execute a notebook that papermill has prepared, saving it after each cell.

        Raises:
            KnobError: for a parameter that JSON cannot hold; nothing has run or been saved.
        """
        from nbformat import from_dict

        from nbkit.course.kernel.client import ClientEngine
        from nbkit.course.record import list_nonfinite
        from nbkit.lab.knobs import KnobError

        # papermill leaves plain dicts in a notebook of format 3.
        nb = from_dict(nb)
        # papermill would write such a value into the notebook's metadata.
        for name, value in nb.metadata.papermill.parameters.items():
            if list_nonfinite(value):
                raise KnobError(f"{name} must be finite, which JSON can hold, got {value!r}.")
        executed: NotebookNode = ClientEngine.execute_notebook(nb, kernel_name, **options)
        return executed

    @staticmethod
    def nb_kernel_name(nb: NotebookNode, name: str | None = None) -> str:
        """Return the given name of a kernel, or else the notebook's."""
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @staticmethod
    def nb_language(nb: NotebookNode, language: str | None = None) -> str:
        """Return the given language, or else the notebook's."""
        from papermill.utils import nb_language

        return str(nb_language(nb, language))
