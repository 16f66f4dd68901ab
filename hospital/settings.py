"""The settings of the service: flags, or a YAML file with the same names."""

import argparse
import dataclasses
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from run_folder.files import InputError, read_yaml

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TITLE = re.compile(r"[A-Za-z0-9_. -]{1,16}")
MOST_DAYS = 36500
SEND_TO = re.compile(r"([^@]{1,16})@([^@]+):(\d{1,5})")


def setting(default: Any, words: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": words, **more})


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `serve.py` takes. Times are in seconds."""

    model: str = setting(
        "", "a model folder or Hub model, whose code is executed, or a converted file", metavar="MODEL"
    )
    spool: Path = setting(Path("gloresnet-spool"), "private folder for received files and the queue", metavar="FOLDER")
    listen: int | None = setting(None, "receive by C-STORE on this port", metavar="PORT")
    host: str = setting("127.0.0.1", "address to listen on; another one needs --callers")
    aet: str = setting("GLORESNET", "our AE title", metavar="TITLE")
    callers: tuple[str, ...] = setting(
        (), "AE titles that may send to us; on loopback any, if none is given", nargs="+"
    )
    archive: str | None = setting(None, "DICOMweb address; reports are stored there", metavar="URL")
    poll: float | None = setting(
        None, "look for new studies in the archive every so many seconds; without --listen every 30", metavar="SECONDS"
    )
    days: int = setting(2, "look at studies of so many days", metavar="N")
    send_to: str | None = setting(
        None, "store reports by C-STORE there instead of --archive", metavar="TITLE@HOST:PORT"
    )
    plane: str | None = setting(
        None, "the plane to use if several T2-weighted series fit", choices=("axial", "coronal", "sagittal")
    )
    user: str | None = setting(None, "user of the archive (basic authentication)")
    password_file: str | None = setting(None, "file with the password of --user", metavar="FILE")
    token_file: str | None = setting(None, "file with a bearer token for the archive", metavar="FILE")
    certificate: str | None = setting(None, "TLS for C-STORE: our certificate (PEM)", metavar="FILE")
    key: str | None = setting(None, "TLS for C-STORE: its private key (PEM)", metavar="FILE")
    ca_file: str | None = setting(None, "certificates that the other side must be signed with (PEM)", metavar="FILE")
    settle: float = setting(30.0, "a study is looked at when nothing has come for so long", metavar="SECONDS")
    patience: float = setting(1800.0, "how long to wait for slices that seem to be missing", metavar="SECONDS")
    keep: float = setting(
        86400.0,
        "how long to keep a refused or incomplete study, so that more slices can complete it",
        metavar="SECONDS",
    )
    retry: float = setting(5.0, "first pause after a failed step; it doubles up to 10 minutes", metavar="SECONDS")
    max_associations: int = setting(10, "senders at a time", metavar="N")
    max_file_mb: int = setting(1000, "largest file that is received", metavar="MB")
    max_instances: int = setting(5000, "files of a study", metavar="N")
    max_studies: int = setting(200, "studies that may wait", metavar="N")
    min_free_mb: int = setting(500, "space of the disk that is left free", metavar="MB")

    @property
    def polls(self) -> float | None:
        """Seconds between two looks at the archive; None if it is not searched."""
        return self.poll if self.poll is not None else 30.0 if self.listen is None else None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting. Without the flag, the attribute is missing."""
    for field in dataclasses.fields(Settings):
        words, more = field.metadata["help"], {k: v for k, v in field.metadata.items() if k != "help"}
        default = field.default
        if default not in (None, (), ""):
            words += f" (default {default})"
        parser.add_argument(f"--{field.name}", type=_kind(field), help=words, default=argparse.SUPPRESS, **more)


def read_settings(given: dict[str, Any], config: Path | None) -> Settings:
    """The settings of a YAML file, overridden by those given on the command line.

    Raises:
        InputError: an unknown name or a value that cannot be used, with what to do.
    """
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in (read_yaml(config) if config else {}).items():
        if name not in fields:
            raise InputError(f"{config} has the unknown setting {name}: the settings are {', '.join(fields)}")
        if value is not None:
            values[name] = _converted(f"{config}: {name}", fields[name], value)
    values |= {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Settings(**values)


def check(settings: Settings) -> None:
    """
    Raises:
        InputError: the settings contradict each other.
    """
    for problem in _problems(settings):
        raise InputError(problem)


def _problems(settings: Settings):
    if not settings.model:
        yield "no model was given: give --model, or model in the configuration"
    if settings.listen is None and settings.archive is None:
        yield "nothing can arrive: give --listen PORT, or --archive URL to search"
    if settings.archive is None and settings.send_to is None:
        yield "reports have nowhere to go: give --archive URL or --send_to TITLE@HOST:PORT"
    if settings.poll is not None and settings.archive is None:
        yield "--poll needs an --archive to search"
    if settings.listen is not None and not 1 <= settings.listen <= 65535:
        yield f"--listen {settings.listen} is not a port: give one from 1 to 65535"
    for title in (settings.aet, *settings.callers):
        if not TITLE.fullmatch(title) or not title.strip():
            yield f"the AE title {title!r} is not valid: give 1 to 16 letters, digits, or one of _ . -"
    if settings.listen is not None and settings.host not in LOOPBACK and not settings.callers:
        yield f"--host {settings.host} can be reached from outside: name the senders that may store, --callers TITLE"
    if settings.send_to is not None:
        found = SEND_TO.fullmatch(settings.send_to)
        if not found or not 1 <= int(found[3]) <= 65535:
            yield f"--send_to {settings.send_to} is not understood: give TITLE@HOST:PORT"
    if settings.archive is not None:
        yield from _problems_of_address(settings)
    if settings.days > MOST_DAYS:
        yield f"--days {settings.days} is not possible: give at most {MOST_DAYS}"
    if bool(settings.user) != bool(settings.password_file):
        yield "--user and --password_file belong together: give both"
    if bool(settings.certificate) != bool(settings.key):
        yield "--certificate and --key belong together: give both"
    for name in ("password_file", "token_file", "certificate", "key", "ca_file"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            yield f"--{name} {path} is not a file: check the path"
        if path and not os.access(path, os.R_OK):
            yield f"--{name} {path} cannot be read: check its permissions"
    for name in ("password_file", "token_file"):
        path = getattr(settings, name)
        if path and not _holds_secret(Path(path)):
            yield f"--{name} {path} does not hold one line of text (UTF-8): write only the password or token into it"
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        if isinstance(value, (int, float)) and not 0 <= value < 1e9:
            yield f"--{field.name} {value} is not possible: give a number from 0 on"
    if settings.max_associations < 1 or settings.max_studies < 1 or settings.max_instances < 1:
        yield "--max_associations, --max_studies and --max_instances must be at least 1"


def _problems_of_address(settings: Settings):
    try:
        address = urlsplit(settings.archive or "")
        good = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is too large, brackets that do not close
        good = False
    if not good:
        yield f"--archive {settings.archive} is no address: give https://HOST/dicom-web"
        return
    if "@" in address.netloc:  # it would be printed, and sent over http
        yield "--archive holds a user or password: give them as --user and --password_file"
    secret = settings.user or settings.token_file
    if secret and address.scheme != "https" and address.hostname not in LOOPBACK:
        yield "a password or token would travel unencrypted: give an --archive with https"


def _holds_secret(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        return False
    return bool(text) and text.isprintable()


def _kind(field: dataclasses.Field) -> Any:
    """The type of one value, from its annotation."""
    text = str(field.type)
    for word, kind in (("int", int), ("float", float), ("Path", Path)):
        if word in text:
            return kind
    return str


def _converted(where: str, field: dataclasses.Field, value: Any) -> Any:
    kind, several = _kind(field), "nargs" in field.metadata
    each = value if several and isinstance(value, list) else [value]
    for one in each:
        right = (str, int) if kind is str else (int, float) if kind is float else str if kind is Path else kind
        if not isinstance(one, right) or isinstance(one, bool):
            raise InputError(f"{where} cannot be {one!r}: see serve.py --help")
        if (choices := field.metadata.get("choices")) and one not in choices:
            raise InputError(f"{where} cannot be {one!r}: choose one of {', '.join(choices)}")
    found = tuple(kind(one) for one in each)
    return found if several else found[0]
