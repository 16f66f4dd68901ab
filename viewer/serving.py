"""Serve the page: gradio behind the gate, with the page's own addresses for uploads and for the viewer's script."""

import logging
from collections.abc import Sequence

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from .calls import Calls
from .fragments import page_css
from .gate import Gate
from .logins import Logins
from .niivue import STATIC, css, head
from .uploads import Uploads
from .workspace import Workspace

THEME = gr.themes.Default(
    font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
)
FAILED = "The server could not answer this request. Reload the page, or try again later."
log = logging.getLogger(__name__)


def launch(
    blocks: gr.Blocks, workspace: Workspace, threads: int, auth: Sequence[tuple[str, str]] | None = None, **options
) -> None:
    """Serve a page until the process is interrupted.

    Args:
        blocks: the page.
        workspace: keeps the visitors' files.
        threads: how many events may run at once.
        auth: users and passwords, or None to let in everyone.
        options: passed to gradio's `launch`.
    """
    answer_with_sentences(blocks)
    workspace.sweep_until_closed()
    uploads = Uploads(workspace)
    blocks.launch(
        theme=THEME,
        css=page_css() + css(),
        head=head("viewer"),
        auth=Logins(auth) if auth else None,
        max_threads=threads,
        app_kwargs={
            "middleware": [Middleware(Gate, calls=Calls(blocks, workspace), workspace=workspace)],
            "routes": [
                Route("/gradio_api/upload", uploads.receive, methods=["POST"]),
                Mount("/viewer", StaticFiles(directory=STATIC)),
            ],
        },
        run_history=False,  # would keep names and results in the browser
        ssr_mode=False,  # needs Node.js
        share=False,
        quiet=True,
        footer_links=["api"],
        enable_monitoring=False,
        **options,
    )


def answer_with_sentences(blocks: gr.Blocks) -> None:
    """Let every failed event say so in a sentence. By default, gradio answers `{"error": null}`."""
    process = blocks.process_api

    async def process_api(*arguments, **settings):
        try:
            return await process(*arguments, **settings)
        except gr.Error:
            raise
        except Exception as error:
            log.exception("an event failed")
            raise gr.Error(FAILED, print_exception=False) from error

    blocks.process_api = process_api
