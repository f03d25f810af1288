"""papermill's engine "nbkit": no run stalls, no cell runs for ever, and a failed run looks failed.

    papermill --engine nbkit lesson.ipynb out.ipynb

papermill loads this at its own start, when half of papermill is not there yet: so nothing of
papermill's is imported before the engine is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbformat import NotebookNode


class NbkitEngine:
    """What papermill asks of an engine; `nbkit.course.kernel.client` does it."""

    @staticmethod
    def execute_notebook(nb: NotebookNode, kernel_name: str, **options: Any) -> NotebookNode:
        """Execute a notebook that papermill has prepared, saving it as it grows.

        Raises:
            KnobError: for a parameter that JSON cannot hold; nothing has run or been saved.
        """
        from nbformat import from_dict

        from nbkit.course.kernel.client import ClientEngine
        from nbkit.course.record import list_nonfinite
        from nbkit.lab.knobs import KnobError

        nb = from_dict(nb)  # of a notebook in format 3, papermill leaves plain dicts
        for name, value in nb.metadata.papermill.parameters.items():
            if list_nonfinite(value):  # papermill would write it into the notebook's metadata
                raise KnobError(f"{name} must be finite, which JSON can hold, got {value!r}.")
        return ClientEngine.execute_notebook(nb, kernel_name, **options)

    @staticmethod
    def nb_kernel_name(nb: NotebookNode, name: str | None = None) -> str:
        """The name given, or the notebook's own."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @staticmethod
    def nb_language(nb: NotebookNode, language: str | None = None) -> str:
        """The language given, or the notebook's own."""
        from papermill.utils import nb_language

        return nb_language(nb, language)
