"""Steps of the service without a network: other files, a clock that is set back, a report that the archive refuses."""

import subprocess
import sys
import threading
import time

import pytest
from pynetdicom import AE, evt

import hospital.archive
import hospital.service
import hospital.spool
import serve
from hospital.archive import ArchiveError, Found, Receiver
from hospital.intake import CUT_OFF
from hospital.queue import Key
from hospital.service import MOST_FETCHED, Service
from hospital.settings import Settings
from hospital.software import Software
from hospital.spool import OtherImage, SpoolFull, tag
from tests.dicomfiles.deliveries import save, slices_of, volume
from tests.programs import ROOT


def _service(spool, **words):
    settings = Settings(model="m", spool=spool, archive="http://127.0.0.1:9/dicom-web", settle=0.0, **words)
    return Service(settings, None, None, Software("1", "d" * 64, ""))


class _Archive:
    """Stores reports, but not those of some studies."""

    def __init__(self, refused, answered):
        self.refused, self.answered, self.asked = refused, answered, []

    def store(self, paths):
        study = paths[0].read_text()
        self.asked.append(study)
        if study in self.refused:
            raise ArchiveError("no", answered=self.answered)


def _with_reports(service, *studies):
    for number, study in enumerate(studies):
        key = Key(study, f"series {number}", "i", "m")
        folder = service.spool.reports / tag("|".join(key))
        folder.mkdir()
        (folder / "report.dcm").write_text(study)
        service.queue.add(key, "screened", "")


def test_a_report_that_the_archive_refuses_stops_only_its_own_study(tmp_path):
    service = _service(tmp_path / "spool")
    _with_reports(service, "a", "b", "a", "c")
    service.destination = _Archive({"a"}, answered=True)
    assert service.send() and service.destination.asked == ["a", "b", "c"]
    assert not service.send() and service.destination.asked == ["a", "b", "c"]
    assert [row["study"] for row in service.queue.in_state("screened")] == ["a", "a"]
    service.close()


def test_an_archive_that_does_not_answer_is_not_asked_for_each_report(tmp_path):
    service = _service(tmp_path / "spool")
    _with_reports(service, "a", "b", "c")
    service.destination = _Archive({"a", "b", "c"}, answered=False)
    assert not service.send() and not service.send() and service.destination.asked == ["a"]
    service.close()


class _Source:
    """An archive with one new series of one image, which it can give only in part."""

    error: BaseException | None = None

    def find(self):
        return [Found("9", "9.1", 1)], ""

    def wanted(self, found):
        return True

    def fetch(self, found):
        yield found.study, "9.1.1", b"x"
        if self.error:
            raise self.error


def test_refused_studies_that_are_kept_do_not_end_the_search(tmp_path):
    service = _service(tmp_path / "spool")
    for number in range(MOST_FETCHED):
        service.spool.keep(f"1.{number}", "1.1", b"x")
    service.archive, service.counts = _Source(), {"9.1": 1}
    service.poll()
    assert len(service.spool.deliveries()) == MOST_FETCHED
    for delivery in service.spool.deliveries():
        service._keep(delivery, "no T2-weighted series")
    service.poll()
    assert len(service.spool.deliveries()) == MOST_FETCHED + 1
    service.close()


def test_a_series_that_the_archive_gave_only_in_part_is_cut_off_until_it_is_fetched_whole(tmp_path):
    service = _service(tmp_path / "spool")
    service.archive, service.counts = _Source(), {"9.1": 1}
    service.archive.error = ArchiveError("the archive does not give a series")
    service.poll()
    (part,) = service.spool.deliveries()
    assert part.cut == {tag("9.1")}
    service.poll()
    assert service.spool.deliveries() == [part]  # no newer: so it settles, and does not wait for ever
    service.archive.error = None
    service.poll()
    assert [delivery.cut for delivery in service.spool.deliveries()] == [frozenset()]
    service.archive.error, service.counts = KeyboardInterrupt(), {"9.1": 2}
    service.archive.find = lambda: ([Found("9", "9.1", 2)], "")
    with pytest.raises(KeyboardInterrupt):  # the service ends meanwhile
        service.poll()
    assert [delivery.cut for delivery in service.spool.deliveries()] == [{tag("9.1")}]
    service.close()


def test_only_a_t2w_series_that_was_cut_off_itself_is_doubted(tmp_path, monkeypatch):
    service, doubts = _service(tmp_path / "spool", patience=0.0), []
    monkeypatch.setattr(service, "screen", lambda delivery, series, missing: doubts.append(missing))
    images = slices_of(volume())
    for path in save(images, tmp_path / "files").iterdir():
        service.spool.keep(images[0].StudyInstanceUID, path.name, path.read_bytes())
    for series in ("1.2.3", images[0].SeriesInstanceUID):  # another one, then its own
        service.spool.mark_cut(tag(images[0].StudyInstanceUID), tag(series), cut=True)
        assert service.look(*service.spool.deliveries())
    assert doubts == [[], [CUT_OFF]]
    service.close()


def test_a_study_with_more_files_than_allowed_does_not_end_the_search(tmp_path, capsys):
    service, fetched = _service(tmp_path / "spool", max_instances=1), []
    service.archive, service.counts = _Source(), {"8.1": 2, "9.1": 1}
    service.archive.find = lambda: ([Found("8", "8.1", 2), Found("9", "9.1", 1)], "")
    service.archive.fetch = lambda found: (
        fetched.append(found.study) or (found.study, f"{found.series}.{number}", b"x") for number in range(found.size)
    )
    service.poll()
    service.poll()
    assert fetched == ["8", "8", "9"] and not service.lines.problem("search")
    assert {delivery.study: delivery.cut for delivery in service.spool.deliveries()} == {
        tag("8"): {tag("8.1")},
        tag("9"): frozenset(),
    }
    said = capsys.readouterr().out
    assert said.count("more files of the study than --max_instances 1,") == 1 and tag("8")[:12] in said
    service.close()


def test_each_report_is_sent_before_the_next_study_is_screened(tmp_path, monkeypatch):
    service, steps = _service(tmp_path / "spool"), []
    for number in range(2):
        service.spool.keep(f"1.{number}", "1.1", b"x")
    monkeypatch.setattr(service, "poll", lambda: None)
    monkeypatch.setattr(service, "look", lambda *_: bool(steps.append("look")) or True)
    monkeypatch.setattr(service, "send", lambda: bool(steps.append("send")))
    assert service.round() and steps == ["look", "send", "look", "send", "send"]
    service.close()


def test_a_clock_that_is_set_back_stops_nothing(tmp_path, monkeypatch):
    service = _service(tmp_path / "spool", retry=60.0)
    service.spool.keep("1.2", "1.2.3", b"x")
    _with_reports(service, "a")
    service.destination = _Archive({"a"}, answered=True)
    service.send()
    (delivery,), (row,) = service.spool.deliveries(), service.queue.in_state("screened")
    assert not service._due(row)
    month = 30 * 86400
    now = hospital.service.time.time() - month
    monkeypatch.setattr(hospital.service.time, "time", lambda: now)
    assert not service._unsettled(delivery) and service._due(row)
    service.close()


def test_what_came_after_a_round_began_has_not_settled(tmp_path):
    """Screening other studies in the same round may take longer than the pause after which a study has settled."""
    service = _service(tmp_path / "spool")
    service.spool.keep("1.2", "1.2.3", b"x")
    (delivery,) = service.spool.deliveries()
    assert service._unsettled(delivery, delivery.newest - 0.01) and not service._unsettled(
        delivery, delivery.newest + 1
    )
    service.close()


def test_a_folder_with_other_files_is_no_spool(tmp_path, model_folder, capsys):
    precious = tmp_path / "reports" / "own" / "file"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    flags = ["--model", str(model_folder), "--archive", "http://127.0.0.1:9/dicom-web", "--once"]
    assert serve.main([*flags, "--spool", str(tmp_path)]) == 1
    assert "holds other files" in capsys.readouterr().err and precious.read_text() == "x"


def test_a_study_of_which_nothing_was_kept_does_not_count(tmp_path, monkeypatch):
    folder = tmp_path / "spool" / "received"
    service = _service(tmp_path / "spool", max_studies=2)
    keep = service.spool.keep
    monkeypatch.setattr(hospital.spool, "is_other", lambda *_: True)
    for number in range(3):
        with pytest.raises(OtherImage):
            keep(f"1.{number}", "1.1", b"x")
    assert not list(folder.iterdir())
    monkeypatch.setattr(hospital.spool, "is_other", lambda *_: False)
    monkeypatch.setattr(hospital.spool.os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep("1.3", "1.1", b"x")
    monkeypatch.undo()
    assert not list(folder.iterdir())
    keep("1.4", "1.1", b"x")
    with pytest.raises(SpoolFull, match="too many"):
        keep("1.5", "1.1", b"x") or keep("1.6", "1.1", b"x")
    service.close()
    (folder / tag("1.4") / f"{tag('1.1')}.dcm").rename(folder / tag("1.4") / ".cut-1")  # a death while it is deleted
    (folder / "empty").mkdir()
    service = _service(tmp_path / "spool", max_studies=2)
    assert [path.name for path in folder.iterdir()] == [tag("1.5")]
    service.close()


def test_a_damaged_queue_is_one_sentence(tmp_path, capsys):
    (tmp_path / "queue.sqlite").write_bytes(b"no database" * 100)
    assert serve.main(["status", "--spool", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "queue.sqlite cannot be used (file is not a database)" in error and error.count("\n") == 1


def test_status_does_without_the_slow_libraries():
    words = "import sys, serve; print(sorted({'torch', 'transformers', 'pydicom'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


class _Late(threading.Event):
    """Pauses the thread of an association, which here passes it just before, and goes on when the answer is there."""

    def __init__(self, association):
        super().__init__()
        self.set()
        self.waiting = association.dimse.msg_queue

    def wait(self, timeout=None):
        super().wait(timeout)
        deadline = time.monotonic() + 1
        while self.waiting.empty() and time.monotonic() < deadline:
            time.sleep(0.001)


def test_an_answer_that_another_thread_took_is_not_lost(tmp_path, monkeypatch):
    """On a busy machine a thread of pynetdicom takes an answer of the receiver, for which the sender then waits."""
    associate = AE.associate

    def late(self, *args, **more):
        association = associate(self, *args, **more)
        association._reactor_checkpoint = _Late(association)
        get = association.dimse.get_msg
        association.dimse.get_msg = lambda block=False: (time.sleep(0.1 if block else 0), get(block))[1]
        return association

    monkeypatch.setattr(AE, "associate", late)
    monkeypatch.setattr(hospital.archive, "TIMEOUT", 2.0)
    got = []
    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.4")
    handlers = [(evt.EVT_C_STORE, lambda event: got.append(event.request.AffectedSOPInstanceUID) or 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    files = sorted(save(slices_of(volume(shape=(8, 8, 3))), tmp_path / "files").iterdir())
    Receiver(Settings(send_to=f"ARCHIVE@127.0.0.1:{server.server_address[1]}")).store(files)
    server.shutdown()
    assert len(got) == 3
