"""The queue on disk: which studies wait, which reports were written, sent or refused. SQLite survives any death."""

import json
import sqlite3
import time
from pathlib import Path
from typing import Any, NamedTuple

from run_folder.files import InputError

FILE, VERSION = "queue.sqlite", 1
TABLES = """
CREATE TABLE IF NOT EXISTS reports (
    study TEXT, series TEXT, instances TEXT, model TEXT,
    state TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
    tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0,
    slices TEXT NOT NULL DEFAULT '', seen TEXT NOT NULL DEFAULT '',
    report TEXT NOT NULL DEFAULT '', report_series TEXT NOT NULL DEFAULT '',
    incomplete INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, updated REAL NOT NULL,
    PRIMARY KEY (study, series, instances, model)
);
CREATE TABLE IF NOT EXISTS deliveries (
    study TEXT PRIMARY KEY, content TEXT NOT NULL, state TEXT NOT NULL, message TEXT NOT NULL,
    tries INTEGER NOT NULL, due REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS images (
    study TEXT, instance TEXT, fingerprint TEXT NOT NULL, PRIMARY KEY (study, instance)
);
CREATE TABLE IF NOT EXISTS fetched (
    study TEXT, series TEXT, model TEXT, count INTEGER NOT NULL, PRIMARY KEY (study, series, model)
);
"""


class Key(NamedTuple):
    """What a report is about: the tags of study and series, the hash of the instances, the digest of the model."""

    study: str
    series: str
    instances: str
    model: str


class Queue:
    """
    Args:
        folder: the spool.
        readonly: for `status`, while a service may be running.

    Raises:
        InputError: there is no queue, it cannot be used, or another version of this project wrote it.
    """

    def __init__(self, folder: Path, readonly: bool = False):
        path = folder / FILE
        if readonly and not path.is_file():
            raise InputError(f"{folder} has no queue: give the --spool or --config of a service that was started")
        try:
            self._open(path, readonly)
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path} cannot be used ({error}): check its permissions and the disk; if it is damaged, move it away,"
                " and the studies that are sent again are reported again"
            ) from None

    def _open(self, path: Path, readonly: bool) -> None:
        self.base = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self.base.row_factory = sqlite3.Row
        version = self.base.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise InputError(f"{path} was written by another version of this project: use that one, or another --spool")
        if readonly:
            self.base.execute("PRAGMA query_only = ON")
            return
        self.base.execute("PRAGMA journal_mode = WAL")
        self.base.execute("PRAGMA synchronous = FULL")
        self.base.executescript(f"BEGIN;{TABLES}PRAGMA user_version = {VERSION};COMMIT;")

    def close(self) -> None:
        self.base.close()

    # ------------------------------------------------------------------------------------------- received studies

    def delivery(self, study: str) -> sqlite3.Row | None:
        return self._one("SELECT * FROM deliveries WHERE study = ?", study)

    def note(self, study: str, content: str, state: str, message: str = "", tries: int = 0, due: float = 0.0) -> None:
        """Remember what is to be done with what was received of a study, and when."""
        self.base.execute(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?)", (study, content, state, message, tries, due)
        )

    def forget(self, study: str) -> None:
        self.base.execute("DELETE FROM deliveries WHERE study = ?", (study,))

    # ---------------------------------------------------------------------------------------------------- reports

    def report(self, key: Key) -> sqlite3.Row | None:
        return self._one("SELECT * FROM reports WHERE study = ? AND series = ? AND instances = ? AND model = ?", *key)

    def reports_of(self, study: str, series: str | None = None) -> list[sqlite3.Row]:
        """The reports of a study that were written, of any model, the oldest first."""
        return self.base.execute(
            "SELECT * FROM reports WHERE study = ? AND (? IS NULL OR series = ?) AND state != 'refused' ORDER BY rowid",
            (study, series, series),
        ).fetchall()

    def add(self, key: Key, state: str, message: str, **more: str | int) -> bool:
        """Add a report, or a refusal. Returns False if there was one of this key."""
        now = time.time()
        values = {**key._asdict(), "state": state, "message": message, "created": now, "updated": now, **more}
        marks = ", ".join("?" * len(values))
        found = self.base.execute(
            f"INSERT OR IGNORE INTO reports ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
        )
        return found.rowcount == 1

    def update(self, key: Key, **values: Any) -> None:
        values["updated"] = time.time()
        sets = ", ".join(f"{name} = ?" for name in values)
        self.base.execute(
            f"UPDATE reports SET {sets} WHERE study = ? AND series = ? AND instances = ? AND model = ?",
            (*values.values(), *key),
        )

    def postpone(self, due: float) -> None:
        """Send no report before a time."""
        self.base.execute("UPDATE reports SET due = max(due, ?) WHERE state = 'screened'", (due,))

    def remove(self, key: Key) -> None:
        self.base.execute(
            "DELETE FROM reports WHERE study = ? AND series = ? AND instances = ? AND model = ?", tuple(key)
        )

    def in_state(self, *states: str) -> list[sqlite3.Row]:
        """Reports, the oldest first."""
        marks = ", ".join("?" * len(states))
        return self.base.execute(f"SELECT * FROM reports WHERE state IN ({marks}) ORDER BY rowid", states).fetchall()

    def waiting(self) -> list[sqlite3.Row]:
        """Received studies, by the time of the next step."""
        return self.base.execute("SELECT * FROM deliveries ORDER BY due").fetchall()

    # ------------------------------------------------------------------------------- what was reported of an image

    def image(self, study: str, instance: str) -> str:
        """The fingerprint of an image that was reported; empty if it was not."""
        found = self._one("SELECT fingerprint FROM images WHERE study = ? AND instance = ?", study, instance)
        return found["fingerprint"] if found else ""

    def note_images(self, study: str, fingerprints: dict[str, str]) -> None:
        """Remember the fingerprints of the images of a report."""
        self.base.execute(
            "INSERT OR REPLACE INTO images SELECT ?, key, value FROM json_each(?)", (study, json.dumps(fingerprints))
        )

    # ---------------------------------------------------------------------------------------- what an archive has

    def fetched(self, study: str, series: str, model: str) -> int | None:
        """How many instances the archive had when the series was fetched last, or judged not to be needed."""
        found = self._one(
            "SELECT count FROM fetched WHERE study = ? AND series = ? AND model = ?", study, series, model
        )
        return found["count"] if found else None

    def note_fetched(self, study: str, series: str, model: str, count: int) -> None:
        self.base.execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?)", (study, series, model, count))

    def _one(self, statement: str, *values: Any) -> sqlite3.Row | None:
        return self.base.execute(statement, values).fetchone()


def key_of(row: sqlite3.Row) -> Key:
    return Key(row["study"], row["series"], row["instances"], row["model"])
