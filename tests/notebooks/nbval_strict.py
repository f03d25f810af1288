"""nbval that cannot pass by accident: compare the lessons' stored outputs with fresh ones.

    python tests/notebooks/nbval_strict.py [NOTEBOOK or FOLDER ...] [pytest's options]

As it comes, nbval passes a notebook that was never executed, waits out the whole time limit at a
dead kernel, goes on after an exception so that every later cell fails too, takes 0.123456 and
0.123457 for different, and lets xdist split a notebook over two kernels. This script is also the
pytest plugin that mends these; it reaches into nbval 0.11, and test_nbval_strict.py holds each.
"""

import math
import os
import re
import sys
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from time import monotonic

import pytest

from nbkit.course.kernel.headless import headless_environment
from nbkit.lab.evidence.register import all_claims
from nbkit.lab.evidence.verdicts import Verdict

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# A cell that measures timings has a budget of up to 300 s: it is no stall before that.
OPTIONS = [
    *("-c", str(ROOT / "pyproject.toml"), "-o", "testpaths=notebooks"),
    *("-p", "nbval", "-p", "nbval_strict"),
    *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "600"),
    *("--nbval-sanitize-with", str(HERE / "sanitize.cfg")),
]

# The verdict on a claim over timings belongs to the machine and its load: the ledger watches it,
# and here only that it is there. These are its words in each case.
WORDS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
TIMED = [claim for claim in all_claims().values() if claim.over == "timings"]
TAKEAWAYS = {Verdict(claim, word, "").takeaway(): claim.id for claim in TIMED for word in WORDS}

# A unit in the third digit, which is where printed numbers are rounded. No absolute tolerance: it
# would let a zero pass for anything small.
TOLERANCE = 1e-2
# A number with a point or an exponent, not part of a word, a version or a date. Whole numbers are
# counts, and compared exactly.
DECIMAL = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+)(?!\w|\.\d)", re.I)


class Text(str):
    """Output text that equals another one if only its decimals differ, within the tolerance."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        mine, others = str(self), str(other)
        if mine == others or DECIMAL.split(mine) != DECIMAL.split(others):
            return mine == others
        pairs = zip(DECIMAL.findall(mine), DECIMAL.findall(others), strict=True)
        return all(math.isclose(float(a), float(b), rel_tol=TOLERANCE) for a, b in pairs)

    def __ne__(self, other):
        return not self == other


def without_timings(text):
    """The text with one and the same word for each verdict, score and takeaway over timings."""
    for takeaway, claim in TAKEAWAYS.items():
        # How many tasks it held on belongs to the machine, too.
        on_tasks = r"( It held on \d+ of \d+ tasks: .*)?"
        text = re.sub(re.escape(takeaway) + on_tasks, f"TAKEAWAY OF {claim}", text)
    for claim in TIMED:
        text = re.sub(
            rf"^{claim.id}  ({'|'.join(WORDS)})( +\(.*\))?$",
            f"{claim.id}  JUDGED",
            text,
            flags=re.M,
        )
        scored = rf"^{claim.id}: (side .*|\w+, so there is nothing to score)$"
        text = re.sub(scored, f"{claim.id}: SCORED", text, flags=re.M)
    return text


def pytest_configure(config):
    if getattr(config.option, "dist", "no") not in ("no", "loadscope", "loadfile"):
        raise pytest.UsageError("cells of one notebook need one kernel: use --dist loadfile.")
    folder = TemporaryDirectory(prefix="nbkit-nbval-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    environment = headless_environment(folder.name)  # nbval's kernels get this process's
    os.environ.clear()
    os.environ.update(environment)
    _mend_nbval()


def _mend_nbval():
    from nbval.kernel import RunningKernel
    from nbval.plugin import IPyNbCell

    sanitize, get_message = IPyNbCell.sanitize, RunningKernel.get_message

    def sanitize_to_text(cell, output):
        output = sanitize(cell, output)
        return Text(without_timings(output)) if isinstance(output, str) else output

    def get_message_of_the_living(kernel, stream, timeout=None):
        end = monotonic() + (timeout or math.inf)
        while True:
            try:
                return get_message(kernel, stream, timeout=max(0, min(1, end - monotonic())))
            except Empty:
                if not kernel.is_alive():
                    kernel.kc.stop_channels()
                    raise RuntimeError("the kernel died while running this cell") from None
                if monotonic() >= end:
                    raise

    IPyNbCell.sanitize = sanitize_to_text
    RunningKernel.get_message = get_message_of_the_living


@pytest.hookimpl(tryfirst=True)  # before a kernel is started for nothing
def pytest_runtest_setup(item):
    if hasattr(item.parent, "stopped_at"):
        pytest.skip(f"the notebook stopped at {item.parent.stopped_at}")
    item.output_timeout = 30  # a busy machine may be late with what a cell has printed
    if item.options["skip"] or not item.cell.source.strip():
        return
    if item.cell.execution_count is None:
        pytest.fail("the stored notebook was never executed here: store it anew", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "outputs differ" not in str(call.excinfo.value):
        item.parent.stopped_at = item.name
    return report


if __name__ == "__main__":
    sys.exit(pytest.main([*OPTIONS, *sys.argv[1:]]))
