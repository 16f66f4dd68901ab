"""Uploads arrive completely, or leave nothing."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from starlette.requests import Request

from tests.viewer.load import BOUNDARY, multipart
from viewer.uploads import Uploads


def send(workspace, *chunks, then="end", limit=1000, tokens=None, cookie="", query=b""):
    """The answer to an upload in several chunks, which then ends, stalls, or is cut off."""
    left = list(chunks)

    async def receive():
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or then != "end"}
        if then == "stall":
            await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    page = SimpleNamespace(cookie_id="id", auth=tokens and print, tokens=tokens or {})
    page.get_blocks = lambda: SimpleNamespace(max_file_size=limit)
    headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode()), (b"cookie", cookie.encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": query, "headers": headers, "app": page}
    answer = Uploads(workspace, patience=0.05).receive(Request(scope, receive))
    with ThreadPoolExecutor(1) as own:  # the browser of other tests keeps an event loop in the main thread
        return own.submit(asyncio.run, answer).result()


def uploads(workspace):
    return list(workspace.root.glob("upload-*"))


BODY = multipart("scan.nii", b"voxels")


def test_a_complete_upload_is_stored_under_its_name(workspace):
    answer = send(workspace, BODY[:40], BODY[40:90], BODY[90:])
    path = Path(json.loads(answer.body)[0])
    assert answer.status_code == 200 and path.name == "scan.nii" and path.read_bytes() == b"voxels"
    assert workspace.holds_upload(str(path)) and len(uploads(workspace)) == 1


@pytest.mark.parametrize(
    ("status", "settings"),
    [(400, {"then": "hang up"}), (408, {"then": "stall"}), (413, {"limit": 5})],
)
def test_an_upload_that_is_cut_off_stalls_or_is_too_large_leaves_nothing(workspace, status, settings):
    body = BODY if "limit" in settings else BODY[:-10]
    answer = send(workspace, body, **settings)
    assert answer.status_code == status and not uploads(workspace)


def test_a_full_disk_is_said_and_leaves_nothing(workspace, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("viewer.uploads.os.replace", full)
    answer = send(workspace, BODY)
    assert answer.status_code == 507 and b"No space left on device" in answer.body and not uploads(workspace)


def test_a_field_that_is_no_file_is_refused_also_while_progress_is_shown(workspace):
    field = BODY.replace(b'; filename="scan.nii"', b"")
    assert send(workspace, field, query=b"upload_id=abc").status_code == 400 and not uploads(workspace)


def test_strangers_upload_nothing(workspace):
    for cookie in ("", "access-token-id=wrong", "access-token-unsecure-id=", "access-token-other=right"):
        with pytest.raises(HTTPException) as caught:
            send(workspace, BODY, tokens={"right": "anna"}, cookie=cookie)
        assert caught.value.status_code == 401 and not uploads(workspace)
    assert send(workspace, BODY, tokens={"right": "anna"}, cookie="access-token-id=right").status_code == 200


@pytest.mark.parametrize("name", ["...", ".nii.gz", "C:\\\\.hidden"])
def test_names_that_start_with_a_dot_are_refused(workspace, name):
    answer = send(workspace, BODY.replace(b"scan.nii", name.encode()))
    assert answer.status_code == 400 and b"does not start with a dot" in answer.body and not uploads(workspace)
