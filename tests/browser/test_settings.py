"""The settings that ship with nbkit, in JupyterLab: what a learner does not have to answer."""

import json
import urllib.request

import labserver

PLUGIN = "@jupyterlab/apputils-extension:notification"


def test_jupyterlab_takes_the_shipped_answer_to_its_question_about_news(tmp_path, monkeypatch):
    """By what the server tells the page: under load the question itself comes late or never."""
    monkeypatch.setattr(labserver, "SETTINGS", {})  # the tests' own would answer it
    with labserver.lab(tmp_path, labserver.SHIPPED) as server:
        address = f"{server.url}/lab/api/settings/{PLUGIN}?token={server.token}"
        with urllib.request.urlopen(address) as answer:
            told = json.load(answer)
    asked = told["schema"]["properties"]["fetchNews"]
    # JupyterLab asks as long as it is "none". Where nbkit is installed with its data files, they
    # have replaced JupyterLab's own default.
    known = {one["const"] for one in asked["oneOf"]}
    assert told["settings"]["fetchNews"] in known - {"none"}
