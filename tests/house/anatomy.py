"""The anatomy of a lesson, as rules: each returns its faults in a notebook, in words.

test_anatomy.py holds the lessons to them.
"""

import ast
import io
import re
import tokenize

from nbkit.lab.cell_text import parse_cell, read_python

MOST_CELLS, MOST_LINES, MOST_CLAIMS, MOST_WORDS = 28, 12, 3, 150
OPENING_LINES = 3  # of code, in the folded cell that opens the lesson
FIRST_CELLS, LINES_BEFORE_THE_LAB = 5, 15
ACTS = {"explore", "predict", "exercise", "answer"}  # what a reader does by one of these calls
YOUR_TURN = re.compile(r"#+\s*your turn\b", re.IGNORECASE)  # a line that the reader changes
DETAILS = re.compile(r"<details\b.*?</details>", re.DOTALL | re.IGNORECASE)
TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
NUMBER = r"(?<![\w.])[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+)(?!\w|\.\d)"
DECIMAL = re.compile(NUMBER, re.IGNORECASE)  # not part of a word, a version or a date
ANY_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d*)?(?:e[-+]?\d+)?", re.IGNORECASE)


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def is_folded(cell):
    return cell.metadata.get("jupyter", {}).get("source_hidden") is True


def find_calls(source):
    """The names of the methods of `lesson` that a cell calls, in the order of the text.

    Read from the syntax tree: a call in a comment or in a text is none, nor is `model.predict(x)`.
    """
    calls = []
    for node in ast.walk(parse_cell(source)):
        if isinstance(node, ast.Call) and re.fullmatch(r"lesson\.\w+", ast.unparse(node.func)):
            calls.append((node.lineno, node.func.attr))
    return [name for _, name in sorted(calls)]


def has_your_turn(source):
    """Whether a comment of the cell asks the reader for a change."""
    tokens = tokenize.generate_tokens(io.StringIO(read_python(source)).readline)
    return any(t.type == tokenize.COMMENT and YOUR_TURN.match(t.string) for t in tokens)


def count_acts(nb):
    """The code cells in which a reader decides something, and does not only run it."""
    return sum(
        bool(ACTS & set(find_calls(cell.source))) or has_your_turn(cell.source)
        for cell in code_cells(nb)
    )


def check_size(nb, **_):
    faults = [f"{len(nb.cells)} cells"] if len(nb.cells) > MOST_CELLS else []
    for cell in code_cells(nb):
        if len(cell.source.splitlines()) > MOST_LINES:
            faults.append(f"{cell.id}: {len(cell.source.splitlines())} lines")
    return faults


def check_opening(nb, **_):
    """The first code cell opens the lesson in three lines and is folded; so is the guard."""
    first, *others = code_cells(nb)
    lines = [line for line in first.source.splitlines() if line.strip()]
    faults = [] if "Lesson(" in first.source else [f"{first.id} does not open the lesson"]
    if len(lines) > OPENING_LINES:
        faults.append(f"{first.id}: {len(lines)} lines")
    guards = [cell for cell in others if "knobs" in find_calls(cell.source)]
    faults += [] if len(guards) == 1 else [f"{len(guards)} guards"]
    return faults + [f"{cell.id} is not folded" for cell in [first, *guards] if not is_folded(cell)]


def check_play_first(nb, **_):
    """The live lab is there at once: few cells, and few lines that one sees."""
    before = 0
    for cell in nb.cells[:FIRST_CELLS]:
        if cell.cell_type != "code":
            continue
        lines = cell.source.splitlines()
        if "explore" in find_calls(cell.source):
            before += next(n for n, line in enumerate(lines) if "lesson.explore(" in line)
            fine = before < LINES_BEFORE_THE_LAB
            return [] if fine else [f"{before} lines before the lab"]
        before += 0 if is_folded(cell) else len(lines)
    return [f"no live lab in the first {FIRST_CELLS} cells"]


def check_acts(nb, **_):
    """A reader acts in one of three code cells."""
    acts, cells = count_acts(nb), len(code_cells(nb))
    return [] if 3 * acts >= cells else [f"{acts} acts in {cells} code cells"]


def check_cards(nb, **_):
    calls = [name for cell in code_cells(nb) for name in find_calls(cell.source)]
    return [] if calls.count("cards") == 1 else [f"{calls.count('cards')} calls of lesson.cards()"]


def check_text(nb, **_):
    """A text is short; the title, tables and what folds out do not count."""
    faults = []
    for cell in nb.cells[1:]:
        words = len(TABLE_ROW.sub("", DETAILS.sub("", cell.source)).split())
        if cell.cell_type == "markdown" and words > MOST_WORDS:
            faults.append(f"{cell.id}: {words} words")
    return faults


def check_claims(claims, **_):
    faults = [f"{len(claims)} claims"] if len(claims) > MOST_CLAIMS else []
    for claim in claims.values():
        # An equality is a row of text: it has no axis.
        wanted = ["task", "baseline"] + (["axis"] if claim.measure != "equality" else [])
        faults += [f"{claim.id} has no {name}" for name in wanted if not getattr(claim, name)]
    return faults


def check_tuning(nb, claims, modules, **_):
    """Who compares trainings gives each arm its best lr, by `tuned`, in the lesson or its modules.

    What is timed, counted or exactly equal has no lr to choose.
    """
    compared = []
    for claim in claims.values():
        if claim.over == "seeds" and claim.measure != "equality" and not claim.deterministic:
            compared.append(claim.id)
    texts = [*modules, *[cell.source for cell in code_cells(nb)]]
    called = any(re.search(r"\btuned\(", text) for text in texts)
    return [f"no call of tuned() for {', '.join(compared)}"] if compared and not called else []


def read_outputs(nb):
    """The stored texts that nbval compares, each with the id of its cell."""
    for cell in code_cells(nb):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            for text in (output.get("text"), data.get("text/plain"), data.get("text/markdown")):
                yield cell.id, "".join(text or "")


def check_floats(nb, modules, **_):
    """No measured float is printed: another machine gives another last digit.

    A number that the lesson's own text has, such as a learning rate or a margin, is not measured.
    """
    sources = "\n".join([*modules, *[cell.source for cell in nb.cells]])
    known = {float(number) for number in ANY_NUMBER.findall(sources)}
    faults = []
    for cell, text in read_outputs(nb):
        for number in DECIMAL.findall(text):
            if abs(float(number)) not in known:
                faults.append(f"{cell} prints {number}")
    return faults


def check_letters(answers):
    """The right letters of all lessons: somebody who always says b must not be right."""
    letters = [answer.right for answer in answers]
    same = len(letters) > 1 and len(set(letters)) == 1
    return [f"the right answer is {letters[0]} in all {len(letters)} lessons"] if same else []


RULES = [
    check_size,
    check_opening,
    check_play_first,
    check_acts,
    check_cards,
    check_text,
    check_claims,
    check_tuning,
    check_floats,
]
