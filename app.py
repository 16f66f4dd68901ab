"""The web page: upload a scan to see its probability of injury, how far to trust it, and where the network looked.

    python app.py                                              # the newest model under runs/
    python app.py --model runs/NAME/fold-4/model --port 7860
    GLORESNET_MODEL=ORG/NAME python app.py                     # as on a Hugging Face Space

Then open http://127.0.0.1:7860. The page contacts no other host, and deletes scans when their visitor leaves. By
default only this machine can reach it. To open it to others, set --host, and protect it with --auth.
Exit status: 2 for a wrong call, 1 if the page cannot be served.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("app.py")

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    environment = os.environ.get  # a Space sets host and port this way
    add(
        "--model",
        metavar="FOLDER|HUB_ID",
        help="default: the environment variable GLORESNET_MODEL, else the newest model under runs/",
    )
    add(
        "--host",
        default=environment("GRADIO_SERVER_NAME", "127.0.0.1"),
        help="address to listen on; 0.0.0.0 lets other machines connect (default %(default)s)",
    )
    add(
        "--port",
        type=int,
        default=environment("GRADIO_SERVER_PORT", "7860"),
        help="port to listen on (default %(default)s)",
    )
    add(
        "--auth",
        type=Path,
        metavar="FILE",
        help="file with one user:password per line; without it, anyone who can reach the page can use it",
    )
    add("--max_file_size", type=int, default=500, metavar="MB", help="largest upload (default %(default)s)")
    args = parser.parse_args(argv)
    if args.auth and not args.auth.is_file():
        parser.error(f"--auth {args.auth} is not a file; give a file with one user:password per line")
    return args


if __name__ == "__main__":  # a wrong call is answered before the slow imports
    parse_arguments()

from machine.memory import keep_freed_memory, keep_imported_modules
from machine.programs import run_program
from run_folder.files import InputError, read_json
from run_folder.layout import RunFolder
from screening.loading import ModelError, load_model
from screening.model import is_trained
from viewer.fragments import public_name
from viewer.workspace import Workspace


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program("app.py", lambda: serve(args), wrong_call=(ModelError, InputError), interrupted="stopped")


def serve(args: argparse.Namespace) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        InputError: the password file or a run's metrics cannot be used.
        ModelError: the model given with `--model` cannot be used.
        OSError: the page cannot be served, for example because the port is in use.
    """
    passwords = read_passwords(args.auth) if args.auth else None
    keep_freed_memory()
    model, processor, name, problem = choose_model(args.model)
    workspace = Workspace()
    try:
        # gradio reads its folder when the page is built; by default it would also send usage statistics
        os.environ |= {"GRADIO_TEMP_DIR": str(workspace.root), "GRADIO_ANALYTICS_ENABLED": "False"}
        without_proxy(args.host)
        from viewer.page import Page

        if __name__ == "__main__":  # by now gradio is imported, and torch if the model needs it
            keep_imported_modules()
        page = Page(model, processor, public_name(name), workspace, problem)
        print(f"Model: {name or 'none'}. Open http://{args.host}:{args.port}", flush=True)
        page.launch(
            server_name=args.host, server_port=args.port, auth=passwords, max_file_size=f"{args.max_file_size}mb"
        )
    except (OSError, ValueError) as error:  # port in use, disk full; a host that is not this machine
        raise OSError(f"the page cannot be served ({error}); choose another --port or --host.") from error
    finally:
        workspace.close()


def without_proxy(host: str) -> None:
    """Reach this machine directly, also where a proxy is set: gradio asks its own page whether it is up."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [os.environ.get(name, ""), "127.0.0.1", "localhost", host]
        os.environ[name] = ",".join(filter(None, hosts))


def choose_model(asked: str | None) -> tuple:
    """Load the model given by `--model`, by GLORESNET_MODEL, with the Space, or the newest one, in that order.

    Returns:
        Model, processor, the model's name on the page, and "". If there is no trained model: None, None, "", and a
        sentence that says why.

    Raises:
        ModelError: the model given by `--model` cannot be used.
    """
    name = asked or os.environ.get("GLORESNET_MODEL") or published_model() or newest_model()
    try:
        if name is None:
            raise ModelError("no model was found in runs/*/fold-*/model")
        model, processor = load_model(name)
        if not is_trained(model):
            raise ModelError(f"the model {name} does not say what it was trained on; its weights may be random")
    except ModelError as error:
        if asked:
            raise
        sentence = str(error).removesuffix(".")
        if name is not None:
            sentence = sentence.replace(name, public_name(name))
        return None, None, "", sentence[0].upper() + sentence[1:] + "."
    return model, processor, name, ""


def published_model() -> str | None:
    """The Hub id that `publish.py --space` wrote next to this file."""
    file = Path(__file__).with_name("model_id.txt")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def newest_model() -> str | None:
    """The model folder of the fold that finished last under `runs/`, or of its run's best fold once all are done."""
    folds = [fold for path in Path("runs").glob("*") for fold in RunFolder(path).existing_folds()]
    finished = [fold for fold in folds if fold.metrics.is_file() and fold.config.is_file()]
    if not finished:
        return None
    newest = max(finished, key=lambda fold: fold.metrics.stat().st_mtime)
    run = newest.run
    if run.cv_metrics.is_file():
        best = read_json(run.cv_metrics).get("best_fold")
        if type(best) is not int or run.fold(best).path not in [fold.path for fold in run.existing_folds()]:
            raise InputError(f"{run.cv_metrics} is damaged: its best_fold is {str(best)[:50]}. Give --model.")
        newest = run.fold(best)
    return str(newest.model)


def read_passwords(file: Path) -> list[tuple[str, str]]:
    """Pairs of user and password, one per line of the file."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"--auth {file} is not text in UTF-8: save it in this encoding.") from error
    if not lines or not all(":" in line for line in lines):
        raise InputError(f"--auth {file} must hold one user:password per line.")
    users = [line.split(":", 1) for line in lines]
    return [(user, password) for user, password in users]


if __name__ == "__main__":
    sys.exit(main())
