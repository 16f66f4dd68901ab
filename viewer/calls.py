"""What a request to screen a scan, or to do what a button does, must look like."""

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError
from starlette.datastructures import Headers

from .workspace import Workspace

if TYPE_CHECKING:
    import gradio as gr

SESSION = re.compile(r"[A-Za-z0-9_-]{1,128}")
LONGEST_CALL = 12_000  # values of one request; each file has about ten, and an upload at most 1000 files


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: of HTTP, 400 to 499.
        sentence: why, and what to do.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers


class Calls:
    """Checks the bodies of requests before gradio acts on them."""

    def __init__(self, blocks: "gr.Blocks", workspace: Workspace):
        self.blocks, self.workspace = blocks, workspace

    def check(self, path: str, body: bytes, headers: Headers) -> None:
        """
        Args:
            path: the address of a POST request.
            body: all of it.
            headers: those of the request.

        Raises:
            Refused: the body is not what the address takes.
        """
        if path.startswith("/login"):
            return
        sent = parse(body)
        session = sent.get("session_hash")
        if session is not None or path.endswith(("join", "cancel")):
            if not isinstance(session, str) or not SESSION.fullmatch(session):
                raise Refused(400, "The request needs a session_hash of 1 to 128 letters and digits.")
        if path.endswith(("cancel", "reset", "reset/")):
            return
        if sent.get("batched"):
            raise Refused(400, "This page takes one request at a time, not a batch.")
        function = self._function(path, sent)
        values = self._values(path, sent, function)
        for block, value in zip(function.inputs, values, strict=False):
            if block.get_block_name() == "file" and value is not None:
                self._check_files(block, value)
        self._check_places(values, headers)

    def _function(self, path: str, sent: dict) -> Any:
        functions = self.blocks.fns
        if "/call/" in path:
            named = [function for function in functions.values() if function.api_name == "screen"]
            if not named:
                raise Refused(404, "This page has no model that could screen a scan.")
            return named[0]
        number = sent.get("fn_index")
        if not isinstance(number, int) or isinstance(number, bool) or number not in functions:
            raise Refused(404, "This page has no function of this number.")
        return functions[number]

    def _values(self, path: str, sent: dict, function: Any) -> list:
        if "/call/v2/" in path:
            names = list(self.blocks.get_api_info()["named_endpoints"]["/screen"]["parameters"])
            names = [parameter["parameter_name"] for parameter in names]
            given = {name: value for name, value in sent.items() if name not in ("session_hash", "oauth_token")}
            if set(given) != set(names):
                raise Refused(400, f"The request needs exactly these values: {', '.join(names)}.")
            return [given[name] for name in names]
        values = sent.get("data")
        if not isinstance(values, list) or len(values) != len(function.inputs):
            raise Refused(400, f"The request needs a list `data` of {len(function.inputs)} values.")
        return values

    def _check_files(self, block: Any, value: Any) -> None:
        from gradio.data_classes import FileData

        files = value if isinstance(value, list) and block.file_count != "single" else [value]
        try:
            for file in files:
                FileData.model_validate(file, context={"validate_meta": True})
        except (ValidationError, TypeError, AttributeError):
            needed = '{"path": ..., "meta": {"_type": "gradio.FileData"}}'
            raise Refused(400, f"A file must be sent as {needed}, with the path that its upload returned.") from None

    def _check_places(self, values: list, headers: Headers) -> None:
        """Whatever names a file, however deep, must be an upload of this page. gradio fetches URLs that it finds."""
        waiting, seen = list(values), 0
        while waiting:
            value = waiting.pop()
            seen += 1
            if seen > LONGEST_CALL:
                sentence = f"The request has more than {LONGEST_CALL} values. Pack the files of a study into a zip."
                raise Refused(413, sentence)
            if isinstance(value, list):
                waiting += value
            elif isinstance(value, dict):
                waiting += value.values()
                if "path" in value or "url" in value:
                    self._check_place(value, headers)

    def _check_place(self, file: dict, headers: Headers) -> None:
        path, url = file.get("path"), file.get("url")
        if not isinstance(path, str) or not self.workspace.holds_upload(path):
            sentence = "The file of this request was not uploaded to this page, or has been deleted. Upload it again."
            raise Refused(400, sentence)
        if url is None:
            return
        page, _, named = url.partition("/gradio_api/file=") if isinstance(url, str) else ("", "", "")
        if path not in (named, unquote(named)) or host_of(page) not in own_hosts(headers):
            raise Refused(400, "The url of a file must be its own on this page. Other addresses are not fetched.")


def parse(body: bytes) -> dict:
    """
    Raises:
        Refused: it is not a JSON object, or not text that can be written again.
    """
    try:
        sent = json.loads(body)
        json.dumps(sent, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # a UnicodeError is a ValueError
        raise Refused(400, "The request is not valid JSON.") from None
    if not isinstance(sent, dict):
        raise Refused(400, "The request must be a JSON object.")
    return sent


def own_hosts(headers: Headers) -> set[str | None]:
    """The names under which the sender knows this page. An address without a host is also one of this page."""
    named = [headers.get("host", ""), headers.get("x-forwarded-host", "").split(",")[0].strip()]
    return {"", *named, host_of(headers.get("origin", ""))} - {None}


def host_of(url: str) -> str | None:
    """Host and port of a URL, "" if it is an address on this page, None if it is neither."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") or not (parts.scheme or parts.netloc) else None
