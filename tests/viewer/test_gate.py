"""What the page answers to requests that are nonsense or an attack, and to many clients at once."""

import http.client
import json
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.viewer.load import BOUNDARY, Client, Load, files_left, load_for, multipart
from tests.viewer.served import start, stop, tiny_models

ELSEWHERE = "http://host.invalid/scan.nii.gz"  # never contacted: see shut_in.py
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def served(base):
    served = start("--model", base / "model", cwd=base, temp=base / "temp")
    yield served
    output = stop(served)  # fails if the page asked for another host
    assert "Traceback" not in output, output


@pytest.fixture
def client(served):
    client = Client(urlsplit(served.url).netloc, keep_alive=False)
    yield client
    client.hang_up()


@pytest.fixture
def uploaded(base, client):
    _, content = client.upload(multipart("scan0.nii.gz", (base / "scan0.nii.gz").read_bytes()))
    return json.loads(content)[0]


def post(client, path, body):
    return client.ask("POST", path, json.dumps(body).encode(), **{"Content-Type": "application/json"})


def refused(answer):
    """The sentence of an answer that refuses a request."""
    status, content = answer
    assert 400 <= status < 500, answer
    return json.loads(content)["detail"]


# ------------------------------------------------------------------------------------------------------ other hosts


@pytest.mark.parametrize(
    "path",
    [
        *(f"/gradio_api/file={url}" for url in (ELSEWHERE, "https:/host.invalid/a", "//host.invalid/a")),
        "/gradio_api/file=%68ttp://host.invalid/a",
        f"/gradio_api/file/{ELSEWHERE}",
        f"/gradio_api/proxy={ELSEWHERE}",
        "/gradio_api/proxy=https://name.hf.space.invalid/",
    ],
)
def test_the_page_fetches_no_url(client, path):
    refused(client.ask("GET", path))
    assert client.ask("HEAD", path)[0] in (403, 404)


def test_no_url_is_fetched_that_a_call_names(client, uploaded):
    for file in (
        {"path": ELSEWHERE, "meta": META},
        {"path": ELSEWHERE, "url": ELSEWHERE, "meta": META},
        {"path": uploaded, "url": ELSEWHERE, "meta": META},
        {"path": uploaded, "url": f"http://host.invalid/gradio_api/file={uploaded}", "meta": META},
        {"path": "/etc/passwd", "meta": META},
        {"path": str(Path(uploaded).parent), "meta": META},
        {"path": f"{uploaded}/../../x", "meta": META},
        {"path": "a" * 5000, "meta": META},
        {"path": "\0", "meta": META},
        {"path": "\ud800", "meta": META},
        {"path": uploaded},
        {"path": uploaded, "size": "large", "meta": META},
        uploaded,
        ELSEWHERE,
    ):
        refused(post(client, "/gradio_api/call/screen", {"data": [file]}))
        refused(post(client, "/gradio_api/call/v2/screen", {"scan": file}))
        join = {"fn_index": 0, "session_hash": "abc", "trigger_id": 1}
        refused(post(client, "/gradio_api/queue/join", {**join, "data": [[file], None, None, None]}))
        refused(post(client, "/gradio_api/queue/join", {**join, "data": [None, {"deep": [file]}, None, None]}))


@pytest.mark.parametrize("url", ["{page}/gradio_api/file={path}", "/gradio_api/file={path}", None])
def test_a_file_may_name_its_own_address(client, served, uploaded, url):
    file = {"path": uploaded, "meta": META, "url": url and url.format(page=served.url, path=uploaded)}
    status, content = post(client, "/gradio_api/call/screen", {"data": [file]})
    assert status == 200
    _, stream = client.ask("GET", f"/gradio_api/call/screen/{json.loads(content)['event_id']}")
    assert b'"status": "ok"' in stream and b'"scan": "scan0.nii.gz"' in stream


# --------------------------------------------------------------------------------------------------------- nonsense


def test_addresses_that_the_page_does_not_need_are_closed(client):
    for path in ("/gradio_api/stream/a/b/1/playlist.m3u8", "/gradio_api/dev/reload", "/monitoring/x", "/pwa_icon/0"):
        assert refused(client.ask("GET", path)) == "This page has no such address."
    for path in ("vibe-edit", "component_server", "process_recording", "run/screen", "api/screen", "call/nothing"):
        assert refused(post(client, f"/gradio_api/{path}", {"data": []})) == "This page has no such address."
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
        assert refused(client.ask(method, "/gradio_api/upload")) == "This address takes only POST."


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{folder}/{name}" for folder in ("static", "assets", "viewer") for name in ("a" * 5000, "%00", "../x")),
        *(f"/gradio_api/file={name}" for name in ("a" * 5000, "/a" * 3000, "%00", "..", "/etc/passwd")),
        *(f"/gradio_api/heartbeat/{name}" for name in ("", "..", "%00", "a" * 5000, "a" * 200)),
        *(f"/gradio_api/queue/data?session_hash={name}" for name in ("", "..", "a" * 5000)),
        "/gradio_api/queue/data",
        "/gradio_api/upload_progress?upload_id=",
        "/?page=absent",
    ],
)
def test_odd_addresses_are_refused(client, path):
    refused(client.ask("GET", path))


def test_odd_calls_are_refused(client):
    for body in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"x" * 2**21, b'{"data": 1}', b'{"data": []}'):
        try:
            refused(client.ask("POST", "/gradio_api/call/screen", body, **{"Content-Type": "application/json"}))
        except ConnectionError:  # it was told before it had sent everything
            assert len(body) > 2**20
    for extra in ({"session_hash": ""}, {"session_hash": 5}, {"session_hash": "a" * 5000}, {"batched": True}):
        refused(post(client, "/gradio_api/call/screen", {"data": [None], **extra}))
    for number in (None, "a", -1, 999, 10**400, 1.5, True):
        body = {"fn_index": number, "session_hash": "abc", "data": [None, None, None, None]}
        refused(post(client, "/gradio_api/queue/join", body))
    for session in (None, "", "/", "a" * 5000):
        refused(post(client, "/gradio_api/queue/join", {"fn_index": 0, "session_hash": session, "data": [None] * 4}))
        refused(post(client, "/gradio_api/cancel", {"fn_index": 0, "session_hash": session, "event_id": "x"}))


def test_a_study_of_1000_files_can_be_sent_at_once(client):
    """Their names are as long as UIDs. None of them is DICOM, which the answer says without naming one."""
    parts = [multipart(f"{'1' * 60}{number:04}.dcm", b"x", close=False) for number in range(1000)]
    status, content = client.upload(b"\r\n".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode())
    assert status == 200
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}, "url": None} for path in json.loads(content)]
    status, content = post(client, "/gradio_api/call/screen", {"data": [files]})
    assert status == 200
    _, stream = client.ask("GET", f"/gradio_api/call/screen/{json.loads(content)['event_id']}")
    answer = json.loads(stream.decode().rpartition("data: ")[2])[0]
    assert answer["status"] == "error" and answer["message"].startswith("DICOM study") and "1111" not in str(answer)


def test_odd_uploads_are_refused_and_leave_nothing(base, client, served):
    scan = (base / "scan0.nii.gz").read_bytes()
    before = set(files_left(served.temp, seconds=0))
    for name in ("", ".", "..", "...", "  ", "a" * 300 + ".nii", "a" * 5000 + ".nii"):
        status, content = client.upload(multipart(name, scan))
        assert status == 400 and b"name" in content or b"Headers" in content, name
    for boundary in ("", "b" * 5000, "other"):
        assert client.upload(multipart("a.nii", scan), boundary)[0] == 400
    assert client.upload(multipart("a.nii", scan, close=False))[0] == 400
    assert client.upload(multipart("a.nii", scan, field_name="file"))[0] == 400
    assert client.ask("POST", "/gradio_api/upload", scan, **{"Content-Type": "text/plain"})[0] == 400
    assert set(files_left(served.temp, seconds=0)) <= before


def test_names_of_all_scripts_are_kept(client):
    for name, kept in [("é日本.nii", "é日本.nii"), ("../../x.nii", "x.nii"), ("C:\\scans\\x.nii", "x.nii")]:
        status, content = client.upload(multipart(name.replace("\\", "\\\\"), b"voxels"))
        assert status == 200 and Path(json.loads(content)[0]).name == kept


def test_odd_headers_are_refused(client, served):
    for name, value in [("X-Forwarded-Host", "a b"), ("X-Forwarded-Host", "a:99999999"), ("X-Forwarded-Host", "[")]:
        refused(client.ask("GET", "/config", **{name: value}))
    for header in ("Host: a b", "Host: :::", "Content-Length: -5", "Content-Length: 5x", "X: " + "y" * 200_000):
        assert raw(served, f"POST /gradio_api/upload HTTP/1.1\r\n{header}\r\n\r\n").startswith(b"HTTP/1.1 400"), header
    assert raw(served, "GET / HTTP/1.0\r\nOrigin: http://a.invalid\r\n\r\n").startswith(b"HTTP/1.1 200")
    status, _ = client.ask("GET", "/config", **{"X-Gradio-Server": "http://["})
    assert status == 200


def raw(served, request):
    """The answer to a request that a client library would not send."""
    with socket.create_connection(("127.0.0.1", urlsplit(served.url).port), timeout=30) as connection:
        connection.sendall(request.encode())
        return connection.recv(4096)


def test_ranges_that_make_no_sense_give_the_whole_file(base, client, uploaded):
    for asked in ("bytes=9-2", "bytes=1-2-3", "bytes=99999999-", "lines=1-2"):
        status, content = client.ask("GET", f"/gradio_api/file={uploaded}", Range=asked)
        assert status == 200 and content == (base / "scan0.nii.gz").read_bytes()


def test_an_event_that_fails_says_so_in_a_sentence(client):
    """Otherwise gradio answers `{"error": null}`."""
    session = "abcdef"
    config = json.loads(client.ask("GET", "/config")[1])
    example = next(one for one in config["dependencies"] if len(one["inputs"]) == 2 and len(one["outputs"]) > 9)
    number, body = example["id"], {"session_hash": session, "data": ["no such example", None]}
    assert post(client, "/gradio_api/queue/join", {**body, "fn_index": number})[0] == 200
    _, stream = client.ask("GET", f"/gradio_api/queue/data?session_hash={session}")
    assert b"There is no such example. Choose from: Normal" in stream


def test_no_public_address_shows_where_anything_lies_on_this_machine(client, base):
    for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/info?all_endpoints=true", "/absent"):
        content = client.ask("GET", path)[1].decode()
        assert not re.search(rf"{base}|{Path(__file__).parent.parent.parent}|site-packages|/home/|/tmp/", content), path
    assert "gate0/model" in client.ask("GET", "/config")[1].decode()  # the model's name, shortened


# ---------------------------------------------------------------------------------------------- uploads and the load


def test_a_finished_visitor_does_not_disturb_an_upload_that_is_still_coming(base, client, served):
    scan = (base / "scan1.nii.gz").read_bytes()
    body = multipart("slow.nii.gz", scan)
    slow = client.open("/gradio_api/upload", len(body), body[:200])
    wait_until(lambda: list(served.temp.rglob("upload-*/tmp*")))
    assert client.screen("quick.nii.gz", scan)["status"] == "ok"
    slow.send(body[200:])
    answer = slow.getresponse()
    path = json.loads(answer.read())[0]
    slow.close()
    assert answer.status == 200 and Path(path).read_bytes() == scan


def test_an_upload_that_is_cut_off_is_deleted_at_once(base, client, served):
    body = multipart("lost.nii.gz", (base / "scan1.nii.gz").read_bytes())
    lost = client.open("/gradio_api/upload", len(body), body[:500])
    wait_until(lambda: unfinished(served.temp))
    lost.close()
    wait_until(lambda: not unfinished(served.temp))


def unfinished(folder):
    """The uploads that are being written."""
    try:
        return list(folder.rglob("upload-*/tmp*"))
    except FileNotFoundError:  # a folder was removed while it was listed
        return unfinished(folder)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_clients_get_their_own_answers_and_leave_nothing(base, served):
    load = load_for(base, served.url)
    load.run(clients=16, requests=64, seed=1)
    assert not load.faults, "\n".join([load.table(), *load.faults])
    kinds = {kind for kind, _, _ in load.counts}
    assert kinds == {"sound_scan", "damaged_scan", "nonsense", "aborted"} and load.counts.total() == 64
    # complete uploads that nobody asked about go a little later: see test_workspace.py, or run tests.viewer.load
    wait_until(lambda: not any(re.match("scan-|cut-|lost-|tmp", path.name) for path in files_left(served.temp, 0)))


def test_an_answer_of_the_server_counts_as_unanswered(monkeypatch):
    """The load test itself notices what it is there for."""
    client = Client("127.0.0.1:9", keep_alive=False)
    load = Load("127.0.0.1:9", [(b"scan", 0.5)], b"cut")
    monkeypatch.setattr(Client, "ask", lambda *_, **__: (200, b"[]"))
    load.request(client, 0, load.nonsense)
    monkeypatch.setattr(Client, "ask", lambda *_, **__: (_ for _ in ()).throw(http.client.RemoteDisconnected()))
    load.request(client, 0, load.nonsense)
    assert load.faulty() == 2 and set(load.counts) == {
        ("nonsense", "close", "wrong"),
        ("nonsense", "close", "unanswered"),
    }
