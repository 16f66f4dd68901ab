"""The address that uploads are sent to. It replaces gradio's, which leaves files behind that are cut off."""

import asyncio
import math
import os
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from fastapi import HTTPException
from gradio.route_utils import GradioMultiPartParser, GradioUploadFile
from gradio.routes import file_upload_statuses
from gradio_client.utils import strip_invalid_filename_characters
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .workspace import Workspace

PATIENCE = 60.0  # seconds without data until an upload counts as cut off
LONGEST_NAME = 255  # bytes; no file system takes more


class Uploads:
    """Receives the files of one request at a time into a folder of their own, all of them or none."""

    def __init__(self, workspace: Workspace, patience: float = PATIENCE):
        self.workspace, self.patience = workspace, patience

    async def receive(self, request: Request) -> Response:
        """Answer with the paths of the files on the server, as gradio's clients expect it."""
        check_login(request)
        try:
            with self.workspace.receive_upload() as folder:
                return JSONResponse(await self._files(request, folder))
        except MultiPartException as error:
            too_large = "maximum allowed size of" in error.message and error.message.startswith("File")
            return PlainTextResponse(error.message, 413 if too_large else 400)
        except FormParserError as error:
            return PlainTextResponse(f"The upload cannot be read: {error}", 400)
        except TimeoutError:
            return PlainTextResponse(f"No data came for {self.patience:.0f} seconds.", 408)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except OSError as error:
            return PlainTextResponse(f"The server cannot store the upload ({error.strerror}). Try again later.", 507)

    async def _files(self, request: Request, folder: Path) -> list[str]:
        kind = request.headers.get("Content-Type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise MultiPartException("An upload must be sent as multipart/form-data.")
        limit, upload_id = request.app.get_blocks().max_file_size, request.query_params.get("upload_id")
        parser = _Parser(
            request.headers,
            self._patient(request.stream()),
            upload_dir=folder,
            max_file_size=math.inf if limit is None else limit,
            upload_id=upload_id,
            upload_progress=file_upload_statuses if upload_id else None,
        )
        try:
            form = await parser.parse()
        finally:
            parser.close()
        paths = []
        for number, file in enumerate(form.getlist("files")):
            if not isinstance(file, GradioUploadFile):
                raise MultiPartException('Each field "files" must be a file with a name.')
            path = folder / str(number) / strip_invalid_filename_characters(base_name(file.filename or ""))
            path.parent.mkdir(mode=0o700)
            os.replace(file.file.name, path)
            paths.append(str(path))
        if not paths or parser.unfinished():
            raise MultiPartException('The upload is cut off, or holds no file in a field "files".')
        return paths

    async def _patient(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            try:
                yield await asyncio.wait_for(anext(stream), self.patience)
            except StopAsyncIteration:
                return


class _Parser(GradioMultiPartParser):
    """gradio's parser, which also refuses names that no file can have and notices a missing end."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self._ended = False

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        file = self._current_part.file
        if file is not None:
            name = file.filename or ""
            if not base_name(name).strip(". ") or base_name(name).startswith("."):
                raise MultiPartException("A file needs a name that does not start with a dot.")
            if len(name.encode()) > LONGEST_NAME:
                raise MultiPartException(f"The name of a file is longer than {LONGEST_NAME} bytes.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        progress = self.upload_progress
        if self._current_part.file is None:  # gradio asks for the file's name here
            self.upload_progress = None
        super().on_part_data(data, start, end)
        self.upload_progress = progress

    def on_end(self) -> None:
        self._ended = True

    def unfinished(self) -> bool:
        """Whether the last boundary is missing."""
        return not self._ended

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


def base_name(name: str) -> str:
    """The last part of a name that a browser of any system has sent."""
    return PureWindowsPath(PurePosixPath(name).name).name


def check_login(request: Request) -> None:
    """
    Raises:
        HTTPException: 401, the page has passwords and the visitor has given none.
    """
    page = request.app  # gradio's, which hands out a token in one of two cookies
    names = (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}")
    if page.auth is not None and not any(request.cookies.get(name) in page.tokens for name in names):
        raise HTTPException(401, "Log in first.")
