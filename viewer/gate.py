"""The gate in front of gradio: it lets through what the page needs, and refuses the rest with one sentence.

gradio has many more addresses than this page needs. Some fetch files from other hosts for a visitor, some answer
nonsense with an error of the server. The gate knows the addresses of the page, and what may be sent to them.
"""

import logging
import re
from contextlib import ExitStack
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .calls import SESSION, Calls, Refused
from .logins import client_address
from .workspace import Workspace

API = "/gradio_api"
READ = re.compile(
    r"/|/(config|theme\.css|robots\.txt|manifest\.json|favicon\.ico|logout)/?|/(static|assets|svelte|viewer)/.+"
    rf"|{API}/(info|openapi\.json|theme\.css|app_id|user|login_check|token|startup-events|upload_progress)/?"
    rf"|{API}/queue/(data|status)|{API}/heartbeat/[^/]+|{API}/call/(v2/)?screen/[^/]+|{API}/file=.+",
    re.DOTALL,
)
SENT = re.compile(rf"/login/?|{API}/(upload|queue/join|cancel|reset/?|call/(v2/)?screen/?)")
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
LONGEST_PART = 255  # bytes between two slashes of an address; no file has a longer name
LARGEST_BODY = 2**20  # bytes of a request that is not an upload
IGNORED = (b"x-gradio-server", b"range")  # headers: gradio believes the first, and fails on odd values of both
log = logging.getLogger(__name__)


class Gate:
    """ASGI middleware around gradio's routes."""

    def __init__(self, app: ASGIApp, calls: Calls, workspace: Workspace):
        self.app, self.calls, self.workspace = app, calls, workspace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not any(name == b"host" for name, _ in scope["headers"]):
            scope["headers"].append((b"host", b"localhost"))  # gradio's CORS, which shares this list, needs one
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in IGNORED]}
        root, path = scope.get("root_path", ""), scope["path"]
        path = path.removeprefix(root) if root else path
        started: Headers | None = None  # those of the answer, once they have been sent

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = Headers(raw=message.get("headers", []))
            await send(message)

        try:
            with ExitStack() as stack:
                check_address(scope, path)
                if path.startswith(f"{API}/heartbeat/"):
                    stack.enter_context(self.workspace.present(path.rpartition("/")[2]))
                if scope["method"] == "POST" and not path.startswith(f"{API}/upload"):
                    body = await read_body(receive)
                    self.calls.check(path, body, Headers(scope=scope))
                    receive = replay(body, receive)
                client_address.set((scope.get("client") or ("",))[0])
                await self.app(scope, receive, sending)
        except Refused as refused:
            await JSONResponse({"detail": refused.sentence}, refused.status, refused.headers)(scope, receive, send)
        except Exception:
            if started is not None:
                log.info("an answer ended early", exc_info=True)
                if "content-length" in started:  # too late for a proper end
                    raise
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            log.exception("a request could not be answered")
            gone = path.startswith(f"{API}/file=")  # its visitor left meanwhile
            answer = JSONResponse(
                {"detail": "The file is gone." if gone else "The server could not answer this request."},
                404 if gone else 500,
            )
            await answer(scope, receive, send)


def check_address(scope: Scope, path: str) -> None:
    """
    Raises:
        Refused: this page has no such address, or the request cannot be meant for it.
    """
    method, headers = scope["method"], Headers(scope=scope)
    known = [pattern for pattern, methods in ((READ, ("GET", "HEAD")), (SENT, ("POST",))) if method in methods]
    if not (READ.fullmatch(path) or SENT.fullmatch(path)):
        raise Refused(404, "This page has no such address.")
    if not any(pattern.fullmatch(path) for pattern in known):
        allowed = "GET, HEAD" if READ.fullmatch(path) else "POST"
        raise Refused(405, f"This address takes only {allowed}.", {"Allow": allowed})
    if max(len(part.encode(errors="replace")) for part in path.split("/")) > LONGEST_PART:
        raise Refused(414, "The address is too long.")
    if re.search(r"[\x00-\x1f\x7f]", path):
        raise Refused(400, "The address has control characters.")
    for name in ("host", "x-forwarded-host"):
        for value in headers.getlist(name):
            if not HOST.fullmatch(value.split(",")[0].strip()):
                raise Refused(400, f"The header {name} is not the name of a host.")
    asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if any(asked.get("page", [])):
        raise Refused(404, "This page has no such address.")
    hashes = asked.get("session_hash", []) + asked.get("upload_id", [])
    if match := re.match(rf"{API}/(heartbeat|call/screen|call/v2/screen)/(?P<hash>.*)", path):
        hashes.append(match["hash"])
    if not all(SESSION.fullmatch(value) for value in hashes):
        raise Refused(400, "The session or event is not one that this page has given.")
    if path.startswith(f"{API}/file=") and names_url(path.removeprefix(f"{API}/file=")):
        raise Refused(403, "This page fetches nothing from other addresses.")


def names_url(text: str) -> bool:
    """Whether a text names another place than a file of this machine: `http://`, `//host`, `\\\\host`."""
    return re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*:|[/\\]{2}|\\)", text) is not None


async def read_body(receive: Receive) -> bytes:
    """
    Raises:
        Refused: it is too large.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request is cut off.")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"The request is larger than {LARGEST_BODY} bytes.")
        if not message.get("more_body"):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body has been read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
