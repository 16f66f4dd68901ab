"""Studies that come in parts, cut off, or again with other headers or pixels. Each function is a test."""

import json
import urllib.request

from pydicom import dcmread

import hospital.listener
from tests.dicomfiles.deliveries import compressed
from tests.hospital.setting import (
    J2K,
    evidence,
    files,
    in_order,
    nothing_private,
    offer,
    predecessors,
    send,
    wait,
    words,
)


def half_with_a_gap(s):
    """Half a study is refused, and screened when the rest comes: one report."""
    folder, study = s.study("gap", slices=20)
    paths = in_order(s, files(folder))
    s.listen("gap")
    send(s, [*paths[:12], *paths[14:]])
    wait(lambda: " refused: " in s.output())
    assert "gaps between its slices" in s.output() and "1 refused" in s.queue()
    s.settled()
    assert not s.reports(study)
    send(s, paths[12:14])
    (report,) = s.wait_for(study)
    assert len(evidence(report)) == 20 and not predecessors(report)


def half_that_waits(s):
    """Half a study without a gap waits for the rest, also over a restart."""
    folder, study = s.study("waits", slices=20)
    paths = in_order(s, files(folder))
    s.listen("waits")
    send(s, paths[:12])
    wait(lambda: "waiting (until" in s.queue())
    s.listen("waits")
    s.settled()
    assert not s.reports(study)
    send(s, paths[12:])
    (report,) = s.wait_for(study)
    assert len(evidence(report)) == 20 and not predecessors(report)


def half_that_was_reported(s):
    """After some time half a study is reported with a warning. With the rest, a second report names the first."""
    folder, study = s.study("reported", slices=20)
    paths = in_order(s, files(folder))
    s.listen("reported", "--patience", 0.5)
    send(s, paths[:12])
    (first,) = s.wait_for(study)
    assert len(evidence(first)) == 12 and "slices may be missing at an end" in words(first)
    send(s, paths[12:])
    both = s.wait_for(study, 2)
    (second,) = [one for one in both if one.SOPInstanceUID != first.SOPInstanceUID]
    assert len(evidence(second)) == 20 and predecessors(second) == [first.SOPInstanceUID]
    assert "replaces an earlier report" in s.output()
    wait(lambda: not s.received())
    send(s, paths[:12])  # nothing new
    wait(lambda: not s.received())
    s.wait_for(study, 2)


def a_late_part_alone(s):
    """Slices that come after the others were reported and deleted are not taken for a series of their own."""
    folder, study = s.study("late", slices=20)
    paths = in_order(s, files(folder))
    s.listen("late", "--patience", 0, "--keep", 0)
    send(s, paths[:12])
    (first,) = s.wait_for(study)
    wait(lambda: not s.received())
    send(s, paths[10:])
    wait(lambda: "send the whole series again" in s.output())
    send(s, paths)
    both = s.wait_for(study, 2)
    assert [predecessors(one) for one in both if one.SOPInstanceUID != first.SOPInstanceUID] == [[first.SOPInstanceUID]]


def cut_off(s):
    """A transfer that ends without a release or a last answer: the study waits, and a repetition completes it, once."""
    folder, study = s.study("cut")

    def patch():
        store, calls = hospital.listener.Listener._store, []

        def losing(self, event):
            status = store(self, event)
            calls.append(status)
            if len(calls) == 9:
                event.assoc.abort()  # the file is stored, its answer is lost
            return status

        hospital.listener.Listener._store = losing

    paths = in_order(s, files(folder))
    s.listen("cut", patch=patch)
    assert offer(s, paths) == [0] * 8 + [None] and len(s.received()) == 9
    send(s, paths, release=False)
    wait(lambda: "was cut off" in s.queue())
    send(s, paths)
    (report,) = s.wait_for(study)
    wait(lambda: not s.received() and s.queue().endswith("\n1 sent\n"))
    assert len(evidence(report)) == 10 and s.output().count(" sent: ") == 1


def while_a_sender_is_connected(s):
    """A study is not looked at while the association that brings it is open, however long it takes."""
    folder, study = s.study("connected")
    s.listen("connected", "--patience", 0)
    looked = []
    send(s, files(folder), between=lambda: (s.settled(), looked.append(s.reports(study))))
    assert looked == [[]]
    s.wait_for(study)


def known_images_again(s):
    """Another header or encoding of a known image changes nothing. Other pixels are refused, also after a report."""
    folder, study = s.study("again")
    first, *_ = files(folder)
    s.listen("again", "--patience", 0)
    other = _other_pixels(first, s.base / "other.dcm")
    status = []
    send(s, files(folder), between=lambda: status.append(offer(s, [other])))
    s.wait_for(study)
    wait(lambda: not s.received())
    # Orthanc changes a header as archives do, and the files are compressed
    for path in files(folder):
        instance = s.orthanc.post("/instances", path.read_bytes())["ID"]
        change = {"Replace": {"PatientName": "ZPHI^Other"}, "Keep": ["SOPInstanceUID", "SeriesInstanceUID"]}
        change["Keep"].append("StudyInstanceUID")
        request = urllib.request.Request(
            f"{s.orthanc.url}/instances/{instance}/modify", json.dumps({**change, "Force": True}).encode()
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            path.write_bytes(answer.read())
    assert dcmread(first).PatientName == "ZPHI^Other"
    compressed(folder, "j2k")
    send(s, files(folder), syntax=J2K)
    wait(lambda: not s.received())
    status.append(offer(s, [other]))
    assert status == [[0xC001]] * 2 and not s.received()
    s.wait_for(study)
    wait(lambda: "with other pixels" in s.queue())
    assert s.output().count(" refused: ") == 1 and "1 refused, 1 sent" in s.queue()
    nothing_private(s.output(), s.queue())


def _other_pixels(path, to):
    """The file of an image with one pixel changed."""
    one = dcmread(path)
    pixels = bytearray(one.PixelData)
    pixels[0] ^= 1
    one.PixelData = bytes(pixels)
    one.save_as(to)
    return to
