"""Figures about the code's readability: `python tests/house/figures.py` prints them.

They are counted over nbkit/ with Python's own parser and tokenizer; test_figures.py holds the
bounds.
"""

import ast
import io
import sys
import tokenize
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "nbkit"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.COMMENT,
}


@dataclass
class Figures:
    """What was counted in a set of files."""

    lines: int = 0
    code_lines: int = 0  # neither blank, nor a comment, nor part of a docstring
    comments: int = 0
    comprehensions: int = 0
    names: list[str] = field(default_factory=list)  # of every function, dunder methods left out
    long_functions: list[str] = field(default_factory=list)  # over 40 lines, docstrings left out
    long_files: list[str] = field(default_factory=list)  # over 300 lines
    defined_in: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def one_word(self) -> list[str]:
        """The functions whose name is one word."""
        return [name for name in self.names if "_" not in name.strip("_")]

    @property
    def doubles(self) -> dict[str, set[str]]:
        """Names that are defined at the top level of two or more files."""
        return {name: files for name, files in self.defined_in.items() if len(files) > 1}

    @property
    def one_word_percent(self) -> float:
        return 100 * len(self.one_word) / len(self.names)

    @property
    def comments_per_100(self) -> float:
        return 100 * self.comments / self.code_lines

    @property
    def comprehensions_per_1000(self) -> float:
        return 1000 * self.comprehensions / self.lines


def count_figures(paths: list[Path]) -> Figures:
    """Count over all files of a list."""
    figures = Figures()
    for path in paths:
        text = path.read_text()
        tree = ast.parse(text)
        figures.lines += len(text.splitlines())
        if len(text.splitlines()) > 300:
            figures.long_files.append(f"{path}: {len(text.splitlines())}")
        docstrings = docstring_lines(tree)
        count_tokens(figures, text, docstrings)
        for node in tree.body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                figures.defined_in[node.name].add(str(path))
        for node in ast.walk(tree):
            figures.comprehensions += isinstance(node, COMPREHENSIONS)
            if isinstance(node, FUNCTIONS) and not node.name.startswith("__"):
                figures.names.append(node.name)
            if isinstance(node, FUNCTIONS):
                own = set(range(node.lineno, node.end_lineno + 1))
                length = len(own - docstrings)
                if length > 40:
                    figures.long_functions.append(f"{path}: {node.name}: {length}")
    return figures


def docstring_lines(tree: ast.Module) -> set[int]:
    """The numbers of the lines that docstrings stand on."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            found |= set(range(first.lineno, first.end_lineno + 1))
    return found


def count_tokens(figures: Figures, text: str, docstrings: set[int]) -> None:
    """Count comments, and the lines that hold code."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        figures.comments += token.type == tokenize.COMMENT
        if token.type not in LAYOUT:
            code |= set(range(token.start[0], token.end[0] + 1))
    figures.code_lines += len(code - docstrings)


if __name__ == "__main__":
    paths = [Path(word) for word in sys.argv[1:]] or [PACKAGE]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) or [path])]
    counted = count_figures(files)
    print(f"{len(files)} files, {counted.lines} lines, {counted.code_lines} of code")
    print(f"one-word function names: {counted.one_word_percent:.0f} % of {len(counted.names)}")
    print(f"comments per 100 code lines: {counted.comments_per_100:.1f}")
    print(f"comprehensions per 1,000 lines: {counted.comprehensions_per_1000:.1f}")
    print(f"functions over 40 lines: {counted.long_functions}")
    print(f"files over 300 lines: {counted.long_files}")
    print(f"names at the top level of several files: {len(counted.doubles)}")
    for name, where in sorted(counted.doubles.items()):
        print(f"  {name}: {', '.join(sorted(where))}")
