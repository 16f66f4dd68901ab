"""The search in an archive whose answers come in pages, or whose index is damaged."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

import serve
from hospital.archive import Archive, Found
from hospital.settings import Settings
from hospital.spool import tag


@pytest.fixture
def archive():
    """Lists studies 1.0, 1.1 and so on, of one series each."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            address, server = urlsplit(self.path), self.server
            study = address.path.removeprefix("/studies/").removesuffix("/series")
            if study == server.broken:
                return self.send_error(500)
            if study == server.odd:
                found = ["not what was asked for"]
            elif address.path == "/studies":
                found = [{"0020000D": {"vr": "UI", "Value": [f"1.{number}"]}} for number in range(server.studies)]
            else:
                found = [{"0020000E": {"vr": "UI", "Value": [f"{study}.1"]}, "00201209": {"vr": "IS", "Value": [3]}}]
            first = int(parse_qs(address.query).get("offset", ["0"])[0]) if server.pages else 0
            if first >= len(found) and server.strict:
                return self.send_error(400)
            page = found[first : first + server.page] if server.page else found
            data = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.studies, server.page, server.pages, server.broken, server.odd = 5, 0, True, "", ""
    server.strict = False  # about an offset behind the last page
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _series(*numbers):
    return [Found(f"1.{number}", f"1.{number}.1", 3) for number in numbers]


def test_an_answer_in_pages_is_read_to_its_end(archive):
    archive.page = 2
    assert Archive(Settings(archive=archive.url)).find() == (_series(0, 1, 2, 3, 4), "")
    archive.strict = True
    assert Archive(Settings(archive=archive.url)).find() == (_series(0, 1, 2, 3, 4), "")
    archive.pages = False  # it does not know `offset`
    assert Archive(Settings(archive=archive.url)).find() == (_series(0, 1), "")
    archive.page = 0
    assert Archive(Settings(archive=archive.url)).find() == (_series(0, 1, 2, 3, 4), "")


def test_studies_that_the_archive_cannot_list_do_not_hide_the_others(archive, tmp_path, model_folder, capsys):
    archive.broken, archive.odd = "1.1", "1.3"
    found, problem = Archive(Settings(archive=archive.url)).find()
    assert found == _series(0, 2, 4)
    assert problem == f"the archive does not list the series of study {tag('1.1')[:12]} (HTTP 500), nor those of 1 more"
    archive.studies, archive.odd = 2, "1.0"
    flags = ["--model", str(model_folder), "--archive", archive.url, "--spool", str(tmp_path / "spool")]
    assert serve.main([*flags, "--once", "--settle", "0"]) == 1
    assert "the archive does not list the series of study" in capsys.readouterr().err
