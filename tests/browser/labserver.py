"""A private JupyterLab and a headless Chromium: what a browser test of a notebook needs.

    with lab(folder) as server, chromium() as browser:
        notebook = Notebook(browser.new_page(), server, "lesson.ipynb")
        notebook.run_all()
        notebook.slider("lr").press("ArrowRight")
        notebook.wait_for_run()
        assert notebook.errors() == []

The server sees no settings, workspace or extension of the user's, and nothing of it stays behind.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbkit

SETTINGS = {  # nothing asks the network, nothing is saved behind the test's back
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
SHIPPED = json.loads((Path(nbkit.__file__).parent / "lab/jupyterlab.json").read_text())
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds for what takes one second on an idle machine


@dataclass(frozen=True)
class Server:
    """A running JupyterLab."""

    url: str
    token: str
    root: Path
    home: Path

    def configure(self, settings: dict[str, dict]) -> None:
        """Set what a user would set in the settings editor; a page opened later has it."""
        for plugin, values in settings.items():
            extension, name = plugin.split(":")
            path = self.home / "settings" / extension / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))

    def log(self) -> str:
        return (self.home / "lab.log").read_text()


@contextlib.contextmanager
def lab(root: Path, settings: dict[str, dict] | None = None):
    """A JupyterLab on a free port that serves `root`; ended on every way out, SIGTERM included.

    Args:
        root: the folder with the notebooks; they are not written unless a test saves them.
        settings: of JupyterLab; by default those that ship with nbkit.
    """
    with tempfile.TemporaryDirectory(prefix="nbkit-lab-", ignore_cleanup_errors=True) as folder:
        server = Server(
            f"http://127.0.0.1:{_free_port()}", secrets.token_hex(16), root.resolve(), Path(folder)
        )
        server.configure(SETTINGS | (SHIPPED if settings is None else settings))
        with _terminated(), open(Path(folder) / "lab.log", "w") as log:
            process = subprocess.Popen(
                _command(server), env=_environment(server.home), stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                _wait_until_it_answers(server, process)
                yield server
            finally:
                _end(process)


@contextlib.contextmanager
def chromium():
    """A headless Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def find_chromium() -> str | None:
    """The browser that NBKIT_CHROMIUM names, or the first of Debian's, Ubuntu's, Google's."""
    names = ["chromium", "chromium-browser", "google-chrome"]
    found = (shutil.which(name) for name in [os.environ.get("NBKIT_CHROMIUM", ""), *names])
    return next((path for path in found if path), None)


class Notebook:
    """One notebook in a page of its own, its kernel ready."""

    def __init__(self, page, server: Server, path: str):
        self.page, self._console = page, []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self._console.append(f"page: {error}"))
        page.goto(f"{server.url}/doc/tree/{path}?reset&token={server.token}")
        page.wait_for_function(_READY)
        page.evaluate(_LISTEN)

    def run_all(self) -> None:
        """Run every cell; an AssertionError with the errors when one fails."""
        good = self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        assert good is not False, self.errors()

    def slider(self, name: str, *, box: int = 0):
        """The handle of a slider, by the name that a screen reader hears."""
        return self.box(box).get_by_role("slider", name=name, exact=True)

    def box(self, number: int = 0):
        """An explorer's sliders and picture, the first unless told otherwise."""
        return self.page.locator(".nbkit-explore").nth(number)

    def wait_for_new_picture(self, before: bytes, *, box: int = 0) -> None:
        """Until the page shows another picture than `before`."""
        encoded = base64.b64encode(before).decode()
        image = self.box(box).locator("img.widget-image").element_handle()
        test = f"async ([image, before]) => await ({_IMAGE_BYTES})(image) !== before"
        self.page.wait_for_function(test, arg=[image, encoded])

    def status(self, *, box: int = 0) -> str:
        return self.box(box).get_by_role("status").inner_text()

    def picture(self, *, box: int = 0) -> bytes:
        """The PNG that is on the page."""
        image = self.box(box).locator("img.widget-image")
        return base64.b64decode(image.evaluate(_IMAGE_BYTES))

    def wait_for_run(self, *, box: int = 0) -> None:
        """Until the picture is that of the values on the controls.

        The status line alone does not say so: a move may still be on its way to the kernel.
        """
        self.page.wait_for_function(_UP_TO_DATE, arg=self.box(box).element_handle())

    def execute(self, code: str) -> str:
        """Run code in the kernel, outside of the notebook; what it prints, or its error."""
        return self.page.evaluate(_EXECUTE, code)

    def errors(self) -> list[str]:
        """Errors of the kernel, wherever JupyterLab puts them, and of the browser's console."""
        return [*self.page.evaluate("() => window.kernelErrors"), *self._console]

    def _note(self, message) -> None:
        if message.type == "error":
            self._console.append(f"console: {message.text}")


_KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"

_READY = f"""() => {{
    const kernel = {_KERNEL};
    return kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}}"""

# An exception in a widget's callback goes to JupyterLab's log console, which is closed.
_LISTEN = f"""() => {{
    window.kernelErrors = [];
    {_KERNEL}.iopubMessage.connect((_, m) => {{
        if (m.header.msg_type === 'error')
            kernelErrors.push('kernel: ' + m.content.ename + ': ' + m.content.evalue);
        if (m.content.name === 'stderr' && /Traceback|never retrieved/.test(m.content.text))
            kernelErrors.push('kernel: ' + m.content.text);
    }});
}}"""

_EXECUTE = f"""async code => {{
    let out = '';
    const future = {_KERNEL}.requestExecute({{code, store_history: false}});
    future.onIOPub = m => {{
        if (m.header.msg_type === 'stream') out += m.content.text;
        if (m.header.msg_type === 'error') out += m.content.ename + ': ' + m.content.evalue;
    }};
    await future.done;
    return out.trim();
}}"""

_UP_TO_DATE = """box => {
    const values = box.querySelector('img.widget-image').alt.split(':')[0].split(', ');
    const made = Object.fromEntries(values.map(pair => pair.split(' = ')));
    const whole = text => /^-?\\d+$/.test(text);
    const same = (shown, made) => whole(shown) && whole(made)
        ? shown === made : Math.abs(shown - made) <= 0.005 * Math.abs(made) + 1e-9;
    const all = (query, test) => [...box.querySelectorAll(query)].every(test);
    const named = control => made[control.labels[0].textContent];
    const status = box.querySelector('[role=status]').innerText;
    return !status.startsWith('training') && !status.includes('going on to n = ')
        && all('[role=slider]', c => same(c.ariaValueText, made[c.ariaLabel]))
        && all('select', c => named(c) === c.selectedOptions[0].text)
        && all('input[type=checkbox]', c => named(c) === (c.checked ? 'True' : 'False'));
}"""

_IMAGE_BYTES = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''));
}"""


def _command(server: Server) -> list[str]:
    port = server.url.rsplit(":", 1)[1]
    return [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={server.token}", f"--ServerApp.root_dir={server.root}",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
    ]  # fmt: skip


def _environment(home: Path) -> dict[str, str]:
    """The caller's environment with every place where Jupyter keeps things moved to `home`."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("JPY_", "NBKIT_"))
    }
    places = {
        "HOME": "", "IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    own = {key: str(home / folder) for key, folder in places.items()}
    path = os.pathsep.join([str(Path(nbkit.__file__).parents[1]), kept.get("PYTHONPATH", "")])
    return {**kept, **own, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": path.rstrip(os.pathsep)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_it_answers(server: Server, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {process.returncode}:\n{server.log()}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(
                f"{server.url}/api/status?token={server.token}", timeout=1
            ).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab does not answer:\n{server.log()}")


def _end(process: subprocess.Popen) -> None:
    """The server ends its kernels on SIGTERM; without it, a kernel sees its parent gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _terminated():
    """SIGTERM ends Python without its `finally` blocks: let it raise inside instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
