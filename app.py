"""The page: drop a scan, see the probability of injury, how sure it is, and where the model looked.

    python app.py                                              # the newest model under runs/
    python app.py --model runs/NAME/fold-4/model --port 7860
    GLORESNET_MODEL=ORG/NAME python app.py                     # as on a Hugging Face Space

Then open http://127.0.0.1:7860. No other host is asked for anything, and scans are deleted when their visitor leaves.
Only this machine can reach the page unless --host says otherwise; then give --auth as well. Exit status: 2 for a wrong
call, 1 when the page cannot be served.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from machine.memory import keep_freed_memory, keep_imported_modules
from screening.loading import ModelError, load_model
from screening.model import is_trained
from viewer.workspace import Workspace


def main() -> int:
    args = parse_arguments()
    keep_freed_memory()
    model, processor, name, problem = choose_model(args.model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    workspace = Workspace()
    try:
        # gradio asks for its folder when the page is built, and would send figures of use home
        os.environ |= {"GRADIO_TEMP_DIR": str(workspace.root), "GRADIO_ANALYTICS_ENABLED": "False"}
        from viewer.page import Page

        page = Page(model, processor, name, workspace, problem)
        print(f"model: {name or 'none'}; open http://{args.host}:{args.port}", flush=True)
        page.launch(
            server_name=args.host,
            server_port=args.port,
            auth=args.auth and read_passwords(args.auth),
            max_file_size=f"{args.max_file_size}mb",
        )
    finally:
        workspace.close()
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    environment = os.environ.get  # a Space sets host and port so
    add("--model", metavar="FOLDER|HUB_ID", help="default GLORESNET_MODEL, else the newest under runs/")
    add("--host", default=environment("GRADIO_SERVER_NAME", "127.0.0.1"), help="0.0.0.0 lets other machines in")
    add("--port", type=int, default=int(environment("GRADIO_SERVER_PORT", "7860")))
    add("--auth", type=Path, metavar="FILE", help="lines of user:password; without it whoever reaches the page uses it")
    add("--max_file_size", type=int, default=500, metavar="MB", help="of an upload, default 500")
    args = parser.parse_args()
    if args.auth and not args.auth.is_file():
        parser.error(f"--auth {args.auth} is no file: give one with lines of user:password")
    return args


def choose_model(asked: str | None) -> tuple:
    """Model, processor and what the page calls them; without a trained model None, and a sentence that says why.

    Raises:
        ModelError: the model named on the command line cannot be used.
    """
    name = asked or os.environ.get("GLORESNET_MODEL") or published_model() or newest_model()
    try:
        if name is None:
            raise ModelError("no folder runs/*/fold-*/model holds one")
        model, processor = load_model(name)
        if not is_trained(model):
            raise ModelError(f"the model {name} does not say what it was trained on: its weights may be random")
    except ModelError as error:
        if asked:
            raise
        sentence = str(error)
        return None, None, "", sentence[0].upper() + sentence[1:] + "."
    return model, processor, name, ""


def published_model() -> str | None:
    """The model that `publish.py --space` has written beside this file."""
    file = Path(__file__).with_name("model_id.txt")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def newest_model() -> str | None:
    """The model of the run that finished a fold last: its best fold once all are done, else that one."""
    finished = sorted(Path("runs").glob("*/fold-*/metrics.json"), key=lambda path: path.stat().st_mtime)
    models = [path.parent / "model" for path in finished if (path.parent / "model" / "config.json").is_file()]
    if not models:
        return None
    figures = models[-1].parent.parent / "cv_metrics.json"
    if figures.is_file():
        return str(figures.parent / f"fold-{json.loads(figures.read_text(encoding='utf-8'))['best_fold']}" / "model")
    return str(models[-1])


def read_passwords(file: Path) -> list[tuple[str, str]]:
    """Pairs of user and password, a line each."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines or not all(":" in line for line in lines):
        raise ModelError(f"--auth {file} must hold lines of user:password")
    return [tuple(line.split(":", 1)) for line in lines]


if __name__ == "__main__":
    keep_imported_modules()
    try:
        status, complaint = main(), ""
    except ModelError as error:
        status, complaint = 2, f"{error}."
    except KeyboardInterrupt:
        status, complaint = 130, ""
    except OSError as error:  # a port in use, a disk that is full
        status, complaint = 1, f"the page cannot be served ({error}): give another --port or --host."
    if complaint:
        print(f"app.py: {complaint}", file=sys.stderr)
    sys.exit(status)
