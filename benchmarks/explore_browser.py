"""What a learner waits for: from a key on a slider to the picture on the page, in JupyterLab.

Run: python benchmarks/explore_browser.py

The training is that of explore.py, in a headless Chromium that needs a core of its own: these are
seconds by the clock, to be read on an idle machine.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from timing import Spread, report

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests" / "browser"))

from labserver import Notebook, chromium, find_chromium, lab  # noqa: E402

CELL = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from explore import KNOBS, START, fit
from nbkit.lab.live.explorer import explore
ui = explore(fit, KNOBS, START)
ui
"""
MOVES = 20

# Seconds from the next key to the first frame after a new picture, and to that of the final one.
WATCH = """box => {
    const image = box.querySelector('img.widget-image'), {src, alt} = image;
    window.measured = new Promise(resolve => {
        addEventListener('keydown', () => {
            const start = performance.now();
            const passed = () => (performance.now() - start) / 1000;
            let first = null;
            requestAnimationFrame(function look() {
                if (first === null && image.src !== src && image.complete) first = passed();
                if (image.alt !== alt && image.complete) return resolve([first, passed()]);
                requestAnimationFrame(look);
            });
        }, {once: true, capture: true});
    });
}"""


def measure(notebook: Notebook) -> tuple[list[float], list[float]]:
    box = notebook.box().element_handle()
    firsts, finals = [], []
    for move in range(MOVES):
        notebook.page.evaluate(WATCH, box)
        notebook.slider("lr").press("ArrowLeft" if move % 2 else "ArrowRight")
        first, final = notebook.page.evaluate("() => window.measured")
        notebook.wait_for_run()
        firsts.append(first)
        finals.append(final)
    return firsts, finals


def main() -> bool:
    if not find_chromium():
        print("skipped: explore_browser.py needs Chromium (Debian: apt-get install chromium)")
        return True
    with tempfile.TemporaryDirectory() as folder:
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        cells = [nbformat.v4.new_code_cell(CELL)]
        written = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
        nbformat.write(written, Path(folder) / "sliders.ipynb")
        with lab(Path(folder)) as server, chromium() as browser:
            notebook = Notebook(browser.new_page(), server, "sliders.ipynb")
            notebook.run_all()
            notebook.slider("lr").wait_for()
            firsts, finals = measure(notebook)
    return all(
        [
            report("a key to the first picture on the page, seconds", Spread.of(firsts), 0.3),
            report("a key to the final picture on the page, seconds", Spread.of(finals), 1.0),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(not main())
