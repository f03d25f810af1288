"""The harness leaves nothing behind."""

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

SERVE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from labserver import lab
with lab(Path({root!r})) as server:
    print(server.url, server.home, flush=True)
    time.sleep(60)
"""


def test_a_terminated_test_run_leaves_no_server(tmp_path):
    """What `timeout` and CI send is SIGTERM."""
    code = SERVE.format(here=str(Path(__file__).parent), root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    url, home = process.stdout.readline().split()
    urllib.request.urlopen(f"{url}/api", timeout=10).close()
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait(30) == 143
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/api", timeout=10)
    assert not Path(home).exists()
