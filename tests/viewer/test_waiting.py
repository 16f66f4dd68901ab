"""Visitors of a busy page: one scan is read at a time, and the others are told so."""

import json
import tempfile
import threading
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from screening.loading import load_model
from tests.viewer.load import Client, multipart
from tests.viewer.served import tiny_models
from viewer.workspace import Workspace


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("waiting"))


@pytest.fixture
def page(base, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workspace = Workspace()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(workspace.root))
    from viewer.page import Page

    page = Page(*load_model(str(base / "model")), "tiny", workspace)
    page.launch(server_name="127.0.0.1", prevent_thread_lock=True)
    yield page
    page.blocks.close()
    workspace.close()


@pytest.fixture
def busy(page, monkeypatch):
    """Lets scans be read only when the test says so, and counts how many are read at once."""
    import viewer.scans as module

    go_on, inside, most = threading.Event(), [], []
    screen = module.screen_scan

    def slow(*arguments, **settings):
        inside.append(1)
        most.append(len(inside))
        assert go_on.wait(120)
        inside.pop()
        return screen(*arguments, **settings)

    monkeypatch.setattr(module, "screen_scan", slow)
    yield go_on, most
    go_on.set()


def test_waiting_visitors_see_their_place_in_line(base, page, busy, browser):
    go_on, most = busy
    with ExitStack() as contexts:
        tabs = [browser.new_context() for _ in range(3)]
        for tab in tabs:
            contexts.callback(tab.close)
        tabs = [tab.new_page() for tab in tabs]
        for number, tab in enumerate(tabs):
            tab.set_default_timeout(60_000)
            tab.goto(page.blocks.local_url)
            tab.wait_for_selector("#upload input[type=file]", state="attached")
            tab.set_input_files("#upload input[type=file]", str(base / "scan1.nii.gz"))
            sentence = f"Another scan is being read; yours is number {number} in line" if number else "Screening"
            tab.locator("#result").get_by_text(sentence).wait_for()
        tabs[1].close()  # leaves the line
        tabs[2].locator("#result").get_by_text("yours is number 2 in line").wait_for()
        go_on.set()
        for tab in (tabs[0], tabs[2]):
            tab.wait_for_selector("#result .headline")
        page.workspace.sweep()
        assert len(list(page.workspace.root.glob("visitor-*/*/scan1.json"))) == 2
    assert max(most) == 1
    assert page.blocks.delete_cache is None  # gradio would delete the results of visitors who are still there


def test_a_program_gets_its_answer_however_long_it_waits_and_is_told_if_the_line_is_full(base, page, busy, monkeypatch):
    go_on, _ = busy
    page.turns.longest = 1
    client = Client(urlsplit(page.blocks.local_url).netloc, keep_alive=False)
    scan = multipart("scan0.nii.gz", (base / "scan0.nii.gz").read_bytes())
    events = []
    for _ in range(3):
        events.append(client.join(json.loads(client.upload(scan)[1])[0]))
    _, stream = client.ask("GET", f"/gradio_api/call/screen/{events[2]}")
    assert b"1 scans are waiting already. Try again in a few minutes." in stream
    monkeypatch.setattr(page.workspace, "keep_uploads", -1)
    page.workspace.sweep()  # an upload whose screening has begun or waits is not an abandoned one
    go_on.set()
    for event in events[:2]:
        _, stream = client.ask("GET", f"/gradio_api/call/screen/{event}")
        assert b'"status": "ok"' in stream
