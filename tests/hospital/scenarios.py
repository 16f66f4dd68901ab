"""What happens to studies between a sender, the service and Orthanc. Each function is a test: see test_service.py."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from pydicom import dcmread

import hospital.queue
import hospital.service
import hospital.spool
import serve
from tests.dicomfiles.deliveries import compressed, edit, save, slices_of, turned, volume
from tests.hospital.setting import (
    J2K,
    PICTURES_AND_MAP,
    evidence,
    files,
    nothing_private,
    offer,
    send,
    wait,
)


def store(s):
    """A study comes by C-STORE, a report, a map and pictures go back, and nothing private is left anywhere."""
    folder, study = s.study("store")
    pdf = dcmread(files(folder)[0])
    s.listen("store", "--patience", 0)
    s.orthanc.send(s.orthanc.upload(folder))
    (report,) = s.wait_for(study)
    assert len(s.reports(study, "OT")) == PICTURES_AND_MAP
    assert evidence(report) == {dcmread(path).SOPInstanceUID for path in files(folder)}
    assert (report.PatientID, report.PatientBirthDate) == (pdf.PatientID, pdf.PatientBirthDate)
    line = s.output().splitlines()[-1]
    assert re.fullmatch(r"\S+ \S+ study [0-9a-f]{12} sent: p 0\.\d{3} \((injury|normal)\), axial, 10 slices.*", line)
    wait(lambda: not s.received())
    s.orthanc.send(s.orthanc.upload(folder))  # everything again
    wait(lambda: not s.received())
    s.wait_for(study)
    assert s.output().count(" study ") == 1 and s.queue().endswith("1 sent\n")

    assert os.stat(s.spool).st_mode & 0o777 == 0o700
    left = [path for path in s.spool.rglob("*")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in left)
    nothing_private(
        s.output(), s.queue(), *(str(path) for path in left), *(p.read_bytes() for p in left if p.is_file())
    )
    sockets = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True).stdout.splitlines()
    ours = [line.split()[3] for line in sockets if f"pid={s.process}," in line]
    assert ours == [f"127.0.0.1:{s.port}"]

    # a second service must not take the same spool
    s_process, s.process = s.process, None
    try:
        s.start("store", "--listen", s.port)
        assert s.ended() == 1 and "is in use by another service" in s.output()
        s.start("store2", "--listen", s.port)
        assert s.ended() == 1 and "choose another --listen" in s.output() and "Traceback" not in s.output()
    finally:
        s.process = s_process


def poll(s):
    """A study is found in the archive: only the series that may be T2w is fetched, when its count stands still."""
    folder, study = s.study("poll")
    adult, _ = s.study("poll-adult")
    edit(adult, lambda one, _: setattr(one, "PatientBirthDate", "19500101"))
    t1w, _ = s.study("poll", series=2)
    edit(t1w, lambda one, _: setattr(one, "EchoTime", 12))
    today = time.strftime("%Y%m%d")
    for each in (folder, t1w):
        edit(each, lambda one, _: setattr(one, "PatientBirthDate", today))
    for each in (folder, t1w, adult):
        edit(each, lambda one, _: setattr(one, "StudyDate", today))
        s.orthanc.upload(each)
    fetched = s.base / "fetched.txt"

    def patch():
        keep = hospital.spool.Spool.keep

        def noted(self, study, instance, *more, **words):
            with open(fetched, "a") as file:
                file.write(f"{instance}\n")
            keep(self, study, instance, *more, **words)

        hospital.spool.Spool.keep = noted

    s.start("poll", "--poll", 0.3, "--patience", 0, patch=patch)
    (report,) = s.wait_for(study)
    uids = {dcmread(path).SOPInstanceUID for path in files(folder)}
    assert evidence(report) == uids and set(fetched.read_text().split()) == uids
    s.stop()
    count = fetched.read_text().count("\n")
    s.start("poll", "--poll", 0.3, "--once", patch=patch)  # nothing new
    wait(lambda: s.ended() is not None)
    assert s.ended() == 0 and fetched.read_text().count("\n") == count
    s.wait_for(study)


def archive_down(s):
    """Reports wait while the archive is down, which `status` shows, and go out when it is back."""
    folder, study = s.study("down")
    s.orthanc.stop()
    try:
        s.listen("down", "--patience", 0)
        send(s, files(folder))
        wait(lambda: re.search(r"screened \([2-9] tries, next", s.queue()))
        assert "reports wait and are sent later" in s.output()
        nothing_private(s.output(), s.queue(), (s.spool / "queue.sqlite").read_bytes())
        s.start("down", "--once")
        wait(lambda: s.ended() is not None)
        assert s.ended() == 1
    finally:
        s.orthanc.start()
    s.listen("down", "--patience", 0)
    s.wait_for(study)
    wait(lambda: not s.received())


def send_to(s):
    """Reports go back by C-STORE."""
    folder, study = s.study("send_to")
    s.listen("send_to", "--patience", 0, "--send_to", f"ARCHIVE@127.0.0.1:{s.orthanc.dicom}")
    send(s, files(folder))
    s.wait_for(study)
    assert len(s.reports(study, "OT")) == PICTURES_AND_MAP


def compressed_over_the_wire(s):
    """JPEG 2000 arrives as it was sent, and gives the answer of the uncompressed study."""
    folder, study = s.study("j2k")
    other, plain = s.study("plain")
    compressed(folder, "j2k")
    assert {dcmread(path).file_meta.TransferSyntaxUID for path in files(folder)} == {J2K}
    s.listen("j2k", "--patience", 0)
    kept = []
    look = lambda: kept.extend(dcmread(path).file_meta.TransferSyntaxUID for path in s.received())  # noqa: E731
    send(s, files(folder), syntax=J2K, between=look)
    assert kept == [J2K] * 10
    send(s, files(other))
    both = *s.wait_for(study), *s.wait_for(plain)
    numbers = [[line for line in str(one).splitlines() if "Numeric Value" in line] for one in both]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 5


def strangers(s):
    """Other calling or called titles are refused. What is no MR is taken and dropped, what is damaged is not."""
    folder, study = s.study("strangers")
    s.listen("strangers", "--callers", "SENDER", "OTHER")
    assert offer(s, files(folder), calling="STRANGER") is None
    assert offer(s, files(folder), called="ELSEWHERE") is None
    assert not s.received()
    send(s, files(folder)[:2], calling="OTHER")
    no_study = edit(folder, lambda one, _: delattr(one, "StudyInstanceUID"), which=[2])
    assert offer(s, [files(no_study)[2]]) == [0xC000]

    def change(one, _):
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"

    edit(folder, change, which=[3])
    send(s, [files(folder)[3]])
    assert len(s.received()) == 2


def limits(s):
    """Too many senders, studies or files, too large a file, or no space: refused, and nothing half-written."""
    folder, _ = s.study("limits")
    paths = files(folder)
    s.listen("limits", "--max_associations", 1, "--max_instances", 3, "--max_studies", 1, "--settle", 60)
    refused = []
    assert offer(s, paths[:4], between=lambda: refused.append(offer(s, paths))) == [0, 0, 0, 0xA700]
    assert refused == [None]
    other, _ = s.study("limits2")
    wait(lambda: offer(s, files(other)[:1]) == [0xA700])
    assert len(s.received()) == 3 and not list(s.spool.rglob("*.part"))
    s.listen("space", "--min_free_mb", 900_000_000)
    assert offer(s, paths[:1]) == [0xA700] and not s.received()
    s.listen("large", "--max_file_mb", 0)
    assert offer(s, paths[:1]) in (None, [None]) and not s.received()


def a_disk_that_fills_up(s):
    """The disk is full while a file is written: status A700, no part of it stays, and the sender's repetition works."""
    folder, study = s.study("full")

    def patch():
        fsync, calls = os.fsync, []

        def failing(handle):
            calls.append(1)
            if 4 <= len(calls) <= 6:
                raise OSError(28, "No space left on device")
            fsync(handle)

        hospital.spool.os.fsync = failing
        note, noted = hospital.queue.Queue.note, []

        def unable(*args, **more):
            noted.append(1)
            if len(noted) < 3:
                raise sqlite3.OperationalError("database or disk is full")
            note(*args, **more)

        hospital.queue.Queue.note = unable

    s.listen("full", "--patience", 0, patch=patch)
    answers = offer(s, files(folder))
    assert 0xA700 in answers and set(answers) == {0, 0xA700}
    assert len(s.received()) <= answers.count(0) + 1 and not list(s.spool.rglob("*.part"))
    send(s, files(folder))
    s.wait_for(study)
    assert "the spool cannot be used (OperationalError)" in s.output() and "spool: works again" in s.output()


def several_series(s):
    """Of two T2w series, the one in the chosen plane is screened; without a choice none is."""
    folder, study = s.study("planes")
    coronal = save(slices_of(turned(volume(), "coronal"), study=f"planes-{id(s)}", series=6), s.base / "in-planes-6")
    s.listen("planes", "--patience", 0)
    send(s, [*files(folder), *files(coronal)])
    wait(lambda: "has 2 T2-weighted series" in s.output())
    s.listen("planes2", "--patience", 0, "--plane", "coronal")
    send(s, [*files(folder), *files(coronal)])
    (report,) = s.wait_for(study)
    assert evidence(report) == {dcmread(path).SOPInstanceUID for path in files(coronal)}


def screening_that_fails(s):
    """An error of a library costs its study, not the service. A study that ends the service is given up in the end."""
    folder, study = s.study("fails")

    def fails():
        def failing(*_args, **_more):
            raise RuntimeError("ZPHINAME")

        hospital.service.screen_study = failing

    s.listen("fails", "--patience", 0, "--retry", 0.01, patch=fails)
    send(s, files(folder))
    wait(lambda: " refused: screening failed (RuntimeError in scenarios.py, line" in s.output())
    nothing_private(s.output(), s.queue(), (s.spool / "queue.sqlite").read_bytes())
    assert s.ended() is None
    other, _ = s.study("ends")

    def ends():
        hospital.service.screen_study = lambda *_args, **_more: os._exit(9)

    s.listen("ends", "--patience", 0, patch=ends)
    send(s, files(other))
    for _ in range(5):
        wait(lambda: s.ended() is not None)
        s.start("ends", "--listen", s.port, "--patience", 0, patch=ends)
    wait(lambda: " refused: screening it ended the service" in s.output())
    assert s.ended() is None


def real_program(s):
    """`python serve.py` itself: SIGTERM gives status 130 and one sentence; --config is read."""
    config = s.base / "service.yaml"
    config.write_text(
        f"model: {s.model}\nlisten: {s.port}\nspool: {s.base / 'real'}\nsettle: 0.3\narchive: {s.orthanc.web}\n"
    )
    program = [sys.executable, str(Path(serve.__file__)), "--config", str(config)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("GloResNet ")
        folder, study = s.study("real")
        send(s, files(folder))
        line = next(line for line in process.stdout if " study " in line)
        assert " sent: " in line and len(s.reports(study)) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "serve.py: stopped; what was received is in the spool, the next start continues.\n"
