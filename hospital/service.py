"""The service: look at what was received, screen it, send the documents, delete the files.

Each step can be repeated: after a death at any moment, the next start continues, and no report is lost or sent twice.

    poll    fetch new series from the archive into the spool
    look    find the T2w series of a study, and what is known about it
    screen  write its documents, then note them in the queue
    send    store the documents in the archive, then note it
    clear   delete the received files and the documents
"""

import shutil
import sqlite3
import time
import traceback
from pathlib import Path
from typing import Any

from dicomfiles import Series
from machine.programs import FAILED
from preprocessing import VolumeError
from run_folder.files import WriteError

from .archive import Archive, ArchiveError, Found, Receiver
from .documents import REPORT, write_documents
from .fingerprint import fingerprint
from .intake import CUT_OFF, PART, key_for, predecessor, read_series, tags_of
from .lines import Lines, summary
from .listener import Listener
from .queue import Key, Queue, key_of
from .settings import Settings
from .software import Software
from .spool import Delivery, OtherImage, Spool, SpoolFull, StudyFull, tag
from .study import screen_study

LONGEST_PAUSE = 600.0  # seconds between two tries
MOST_TRIES = 5  # to look at a study and screen it
MOST_FETCHED = 20  # studies that are fetched before others are screened
TICK = 0.2  # seconds
OTHER = (
    "an image came again under its SOPInstanceUID with other pixels or in another place: it was not taken, and the"
    " first one counts; a changed image needs a UID of its own"
)
MANY = (
    "the archive has more files of the study than --max_instances {}, so a series was not fetched whole: to screen it,"
    " give a larger --max_instances and another --spool"
)
ENDED = "screening it ended the service several times, or failed each time"


class Service:
    """
    Args:
        settings: checked.
        model, processor: from `load_model`.
        software: which model it is.
    """

    def __init__(self, settings: Settings, model: Any, processor: Any, software: Software):
        self.settings, self.model, self.processor, self.software = settings, model, processor, software
        free = settings.min_free_mb * 1_000_000
        self.spool = Spool(settings.spool, settings.max_studies, settings.max_instances, free)
        self.queue, self.lines = Queue(settings.spool), Lines()
        self.archive = Archive(settings) if settings.archive else None
        self.destination = Receiver(settings) if settings.send_to else self.archive
        self.listener: Listener | None = None
        self.counts: dict[str, int] = {}  # of each series in the archive, when it was searched last
        self.next_poll = 0.0

    def close(self) -> None:
        if self.listener:
            self.listener.close()
        self.queue.close()
        self.spool.close()

    def run(self) -> None:
        """Serve until the process is interrupted."""
        if self.settings.listen is not None:
            self.listener = Listener(self.settings, self.spool, self.queue)
        self.lines.started(self.settings, self.software)
        while True:
            self.round()
            time.sleep(TICK)

    def drain(self) -> int:
        """Do everything that can be done now. Returns an exit status: 1 if a report could not be sent."""
        if self.settings.polls is not None:
            self.poll()  # a series is complete when two looks count the same
            time.sleep(min(self.settings.settle, self.settings.polls))
            self.next_poll = 0.0
        while self.round() or any(map(self._unsettled, self.spool.deliveries())):
            time.sleep(TICK)
        failed = self.queue.in_state("screened") or [row for row in self.queue.waiting() if row["state"] == "failed"]
        return FAILED if failed or any(map(self.lines.problem, ("search", "reports", "spool"))) else 0

    def round(self) -> bool:
        """One turn of all steps. Returns whether a study made a step."""
        try:
            done = self._round()
        except (OSError, sqlite3.OperationalError) as error:
            problem = f"the spool cannot be used ({type(error).__name__}): free some space; it is tried again."
            self.lines.trouble("spool", problem)
            return False
        self.lines.trouble("spool", "")
        return done

    def _round(self) -> bool:
        if self.settings.polls is not None and time.monotonic() >= self.next_poll:
            self.poll()
        for study in self.listener.take_others() if self.listener else ():
            self._refuse_part(study, "other image", OTHER)
        now = time.time()
        busy = self.listener.busy() if self.listener else set()  # first: what comes after this has not settled
        deliveries = self.spool.deliveries()
        crowded = len(deliveries) > self.settings.max_studies // 2
        done = False
        for delivery in deliveries:
            if delivery.study not in busy and not self._unsettled(delivery, now) and self.look(delivery, crowded):
                done = True
                self.send()  # not after all the others, each of which takes seconds
        done = self.send() or done
        self.clear()
        return done

    def _unsettled(self, delivery: Delivery, now: float | None = None) -> bool:
        """Whether files came shortly before a time, or after it. Long after it means that the clock was set back."""
        return -LONGEST_PAUSE < (now or time.time()) - delivery.newest < self.settings.settle

    def _due(self, row: sqlite3.Row, longest: float = LONGEST_PAUSE) -> bool:
        """Whether the next step of a report or study is due. A time too far ahead is of a clock that was set back."""
        return not time.time() < row["due"] <= time.time() + longest

    def poll(self) -> None:
        """Fetch the series of the archive that may be T2-weighted, are complete, and were not fetched before."""
        assert self.archive is not None and self.settings.polls is not None
        self.next_poll = time.monotonic() + self.settings.polls
        try:
            found, problem = self.archive.find()
        except ArchiveError as error:
            self.lines.trouble("search", f"{error}; it is tried again.")
            return
        problem = f"{problem}; it is tried again." if problem else ""
        for series in found:
            key = tag(series.study), tag(series.series), self.software.digest
            complete = self.counts.get(series.series) == series.size
            if not complete or self.queue.fetched(*key) == series.size:
                continue
            if self._waiting() >= MOST_FETCHED:
                break
            try:
                if self.archive.wanted(series):
                    self._fetch(self.archive, series)
                self.queue.note_fetched(*key, series.size)
            except ArchiveError as error:  # the next series may be found
                problem = f"{error}; it is tried again."
            except SpoolFull as error:
                problem = f"nothing can be fetched ({error}): free some space, or wait until studies are done."
                break
        self.counts = {series.series: series.size for series in found}
        self.lines.trouble("search", problem)

    def _fetch(self, archive: Archive, series: Found) -> None:
        """Fetch a series into the spool. Until all of it is there, it is marked as cut off."""
        brought = set()
        for study, instance, data in archive.fetch(series):
            brought.add((tag(study), tag(series.series)))
            try:
                known = self.queue.image(tag(study), tag(instance))
                self.spool.keep(study, instance, data, known, again=False)  # or a study would never settle
            except OtherImage:
                self._refuse_part(tag(study), "other image", OTHER)
            except StudyFull:  # it would be so each time, so it counts as fetched
                return self._refuse_part(tag(study), "many files", MANY.format(self.settings.max_instances))
            else:
                self.spool.mark_cut(tag(study), tag(series.series), cut=True)
        for each in brought:
            self.spool.mark_cut(*each, cut=False)

    def _waiting(self) -> int:
        """How many studies are to be looked at; those that are only kept, in case more of them comes, do not count."""
        kept = {row["study"] for row in self.queue.waiting() if row["state"] == "kept"}
        return sum(delivery.study not in kept for delivery in self.spool.deliveries())

    def look(self, delivery: Delivery, crowded: bool = False) -> bool:
        """Decide what is to be done with a study that has settled, and do it. Returns whether something was done."""
        row = self.queue.delivery(delivery.study)
        same = row is not None and row["content"] == delivery.content
        if row is not None and same and row["state"] == "kept" and (crowded or self._due(row, self.settings.keep)):
            return self._remove(delivery)
        if (
            row is not None
            and same
            and not self._due(row, max(LONGEST_PAUSE, self.settings.patience, self.settings.keep))
        ):
            return False
        reports = [each for each in self.queue.reports_of(delivery.study) if each["model"] == self.software.digest]
        if delivery.files.keys() <= {name for each in reports for name in each["seen"].split()}:
            return self._finish(delivery, reports)
        tries, problem = (row["tries"] + 1, row["message"]) if row is not None and same else (1, "")
        if tries > MOST_TRIES:
            return self.refuse(delivery, problem or ENDED)
        self.queue.note(delivery.study, delivery.content, "looking", problem, tries)
        try:
            series = read_series(delivery, self.settings.plane)
            own = key_for(delivery, series, self.software.digest).series
            missing = [*series.missing, *([CUT_OFF] if own in delivery.cut else [])]
            until = min(delivery.newest, time.time()) + self.settings.patience
            if (missing or delivery.cut) and time.time() < until:
                self.queue.note(delivery.study, delivery.content, "waiting", [*missing, CUT_OFF][0], due=until)
                return True
            self.screen(delivery, series, missing)
        except VolumeError as error:
            return self.refuse(delivery, str(error))
        except WriteError:  # the disk is full: no fault of the study
            self._failed(delivery, 1, "the disk is full")
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # of any library; only its type is free of what a header says
            self._failed(delivery, tries, f"screening failed ({place_of(error)})")
        return True

    def screen(self, delivery: Delivery, series: Series, missing: list[str]) -> None:
        """Screen a series and write its documents, unless it was done before.

        Raises:
            VolumeError: the model cannot use it, or it is only a part of what was reported before.
            WriteError: the disk is full.
        """
        key, slices = key_for(delivery, series, self.software.digest), tags_of(series)
        seen = " ".join(sorted(delivery.files))
        if (known := self.queue.report(key)) is not None:  # other series of the study are new
            self.queue.update(key, seen=f"{known['seen']} {seen}")
            return
        earlier = self.queue.reports_of(key.study, key.series)
        if any(not set(each["slices"].split()) <= set(slices) for each in earlier):
            raise VolumeError(PART)
        study = screen_study(self.model, self.processor, None, found=series)
        if CUT_OFF in missing:
            study.answer["warnings"].append(CUT_OFF)
        previous = [predecessor(each, series) for each in earlier[-1:]]
        paths = write_documents(study, self.software, self._folder(key), previous)
        report, report_series = report_uids(paths[0])
        images = [Path(file.path) for file in series.sources]
        self.queue.note_images(key.study, {path.stem: fingerprint(path) for path in images})
        message = summary(study.answer, len(study.voxels), study.plane, bool(previous))
        words = {"slices": " ".join(slices), "seen": seen, "report": report, "report_series": report_series}
        self.queue.add(key, "screened", message, incomplete=int(bool(missing)), **words)

    def refuse(self, delivery: Delivery, problem: str) -> bool:
        """Say why a study gets no report, and keep its files for some time, in case more of it comes."""
        if self.queue.add(key_for(delivery, None, self.software.digest), "refused", problem):
            self.lines.study(delivery.study, "refused", problem)
        self._keep(delivery, problem)
        return True

    def _refuse_part(self, study: str, kind: str, problem: str) -> None:
        """Say, once, why some images of a study were not taken."""
        if self.queue.add(Key(study, "", kind, self.software.digest), "refused", problem):
            self.lines.study(study, "refused", problem)

    def send(self) -> bool:
        """Send the reports that are due, the oldest first. Returns whether one was sent."""
        assert self.destination is not None
        sent, waiting = False, set()  # studies with an earlier report that waits: a later one may name it
        for row in self.queue.in_state("screened"):
            key, folder = key_of(row), self._folder(key_of(row))
            if key.study in waiting or not self._due(row):
                waiting.add(key.study)
                continue
            if not (folder / REPORT).is_file():  # somebody deleted it; what was received is still there
                self.queue.remove(key)
                continue
            try:
                # the report last: where it is, its map and pictures are
                self.destination.store(sorted(folder.glob("*.dcm"), key=lambda path: path.name == REPORT))
            except ArchiveError as error:
                pause = min(LONGEST_PAUSE, self.settings.retry * 2 ** row["tries"])
                due = time.time() + pause
                self.queue.update(key, tries=row["tries"] + 1, due=due)
                self.lines.trouble("reports", f"{error}; reports wait and are sent later.")
                waiting.add(key.study)
                if not error.answered:  # the others need not be tried
                    self.queue.postpone(due)
                    break
                continue
            self.queue.update(key, state="sent", due=0.0)
            self.lines.study(key.study, "sent", row["message"])
            if not waiting:
                self.lines.trouble("reports", "")
            sent = True
        return sent

    def clear(self) -> None:
        """Delete the documents that are not to be sent any more."""
        needed = {self._folder(key_of(row)) for row in self.queue.in_state("screened")}
        for folder in self.spool.reports.iterdir():
            if folder not in needed:
                shutil.rmtree(folder)

    def _finish(self, delivery: Delivery, reports: list[Any]) -> bool:
        """Delete what was received of a study whose reports were sent; keep an incomplete one for its other slices."""
        if any(each["state"] != "sent" for each in reports):
            return False
        if reports[-1]["incomplete"]:
            self._keep(delivery, "its report was sent, slices may be missing")
            return True
        return self._remove(delivery)

    def _remove(self, delivery: Delivery) -> bool:
        removed = self.spool.clear(delivery)
        if removed:
            self.queue.forget(delivery.study)
        return removed

    def _keep(self, delivery: Delivery, message: str) -> None:
        due = time.time() + self.settings.keep
        self.queue.note(delivery.study, delivery.content, "kept", message, due=due)

    def _failed(self, delivery: Delivery, tries: int, message: str) -> None:
        due = time.time() + min(LONGEST_PAUSE, self.settings.retry * 2 ** (tries - 1))
        self.queue.note(delivery.study, delivery.content, "failed", message, tries, due)
        self.lines.trouble(
            f"study {delivery.study[:12]}", f"study {delivery.study[:12]}: {message}; it is tried again."
        )

    def _folder(self, key: Key) -> Any:
        return self.spool.reports / tag("|".join(key))


def place_of(error: Exception) -> str:
    """The type of an error and where it was raised; its message may quote a header."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"


def report_uids(path: Any) -> tuple[str, str]:
    """The UIDs of a report and of its series."""
    from pydicom import dcmread

    report = dcmread(path, specific_tags=["SOPInstanceUID", "SeriesInstanceUID"])
    return str(report.SOPInstanceUID), str(report.SeriesInstanceUID)
