"""Small notebooks for the tests of the course: each source is a code cell."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """\
profile: str = "lesson"  # how much
lr: float = 0.1  # step size
quick: bool = False  # whether to hurry"""

# What a real guard does is the business of nbkit.lab.lesson; here its text is what matters.
GUARD = """\
class lesson:
    def knobs(**ranges): pass
def choice(*options): pass
flag = log = choice
lesson.knobs(profile=choice("smoke", "lesson", "full"), lr=log(1e-4, 10), quick=flag())"""


def write(path, *sources, parameters=False):
    """Write a notebook of these cells; `parameters` puts a lesson's first two before them."""
    cells = [new_markdown_cell("# A lesson")]
    if parameters:
        cells.append(new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
        cells.append(new_code_cell(GUARD))
    cells += [new_code_cell(source) for source in sources]
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)
    return path
