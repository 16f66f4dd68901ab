"""Screen the studies that a hospital's archive or scanner sends, and send reports back. For research use only.

    python serve.py --model FOLDER --listen 11112 --aet GLORESNET --archive http://127.0.0.1:8042/dicom-web
    python serve.py --model FOLDER --archive https://pacs.example/dicom-web --user U --password_file FILE
    python serve.py --config service.yaml [--once]
    python serve.py status [--spool FOLDER | --config FILE]

Studies arrive by C-STORE (--listen), or are searched in an archive by DICOMweb (without --listen, or with --poll). The
T2-weighted series of each is screened when nothing has come for --settle seconds. A Structured Report, a Parametric Map
and pictures are stored in the archive. One line for each study is printed; no line names a patient.

--once does not listen: it finishes what was received before, searches the archive once if it is one that searches, and
ends. `status` lists the queue. Settings can be in a YAML file (--config) under the names of the flags. See
docs/hospital.md.

Exit status: 0 success, 1 a report could not be sent or the service cannot run, 2 wrong call, 130 interrupted.
"""

if __name__ == "__main__":  # first, so that Ctrl-C and SIGTERM are handled during the slow imports
    from machine.interruption import begin_program

    begin_program("serve.py")

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hospital.lines import table
from hospital.packages import quiet, require
from hospital.queue import Queue
from hospital.settings import Settings, add_flags, check, read_settings
from machine.memory import keep_freed_memory, keep_imported_modules
from machine.programs import run_program
from run_folder.files import InputError
from screening.errors import ModelError

NAME = "serve.py"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(
        NAME,
        lambda: status(args) if args.command else serve(args),
        wrong_call=(InputError, ModelError),
        interrupted="stopped; what was received is in the spool, the next start continues",
    )


def serve(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    check(settings)
    require("pydicom", "highdicom", "pynetdicom", "dicomweb_client")
    os.umask(0o077)
    from hospital.service import Service
    from hospital.software import describe_software
    from screening.loading import load_model

    keep_freed_memory()
    model, processor = load_model(settings.model)
    if processor.brain_mask == "required":
        raise ModelError(f"the model {settings.model} needs brain masks, which studies do not have: give another one")
    with quiet():
        service = Service(settings, model, processor, describe_software(model, settings.model))
        try:
            return service.drain() if args.once else service.run()
        finally:
            service.close()


def status(args: argparse.Namespace) -> None:
    queue = Queue(settings_of(args).spool, readonly=True)
    for line in table(queue.waiting(), queue.in_state("screened", "sent", "refused")):
        print(line)
    queue.close()


def settings_of(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items() if name not in ("command", "config", "once")}
    return read_settings(given, args.config)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("command", nargs="?", choices=["status"], help="list the queue instead of serving")
    add("--config", type=Path, metavar="FILE", help="YAML file with settings, named like the flags")
    add("--once", action="store_true", help="do what can be done now, and end")
    add_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    keep_imported_modules()
    sys.exit(main())
