"""One Orthanc, the services of a scenario, senders, and what the scenarios ask of the objects that come back."""

import io
import os
import signal
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE

import serve
from dicomfiles import read
from hospital.archive import keep_answers
from tests.dicomfiles.deliveries import PRIVATE, save, slices_of, volume

LONG = 90.0  # seconds
EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
PICTURES, PICTURES_AND_MAP = 2, 3  # of a study; fewer than usual, to save time


class Setting:
    """One Orthanc, and the services of a scenario.

    Args:
        base: an empty folder.
        model: a model folder.
        orthanc: running; it may send to `port`.
        port: where services listen.
    """

    def __init__(self, base, model, orthanc, port):
        self.base, self.model, self.orthanc, self.port = Path(base), str(model), orthanc, port
        self.process, self.number, self.out = None, 0, self.base / "none"

    def study(self, name, slices=10, **words):
        """A folder with a new study, and its StudyInstanceUID."""
        datasets = slices_of(volume(shape=(20, 24, slices)), study=f"{name}-{id(self)}", **words)
        for number, one in enumerate(datasets, start=1):
            one.InstanceNumber = number
        folder = save(datasets, self.base / f"in-{name}-{words.get('series', 5)}")
        return folder, datasets[0].StudyInstanceUID

    def start(self, spool, *flags, patch=None, archive=None):
        """Start a service in a process of its own. `patch` changes it first."""
        self.stop()
        self.number += 1
        self.out, self.spool = self.base / f"service-{self.number}.txt", self.base / spool
        flags = ["--model", self.model, "--spool", self.spool, "--settle", 0.3, "--retry", 0.2, *flags]
        if "--send_to" not in flags:
            flags += ["--archive", archive or self.orthanc.web]
        self.process = os.fork()
        if self.process == 0:
            with open(self.out, "w", buffering=1) as out, redirect_stdout(out), redirect_stderr(out):
                try:
                    if patch:
                        patch()
                    status = serve.main(list(map(str, flags)))
                except BaseException:
                    traceback.print_exc()
                    status = 99
            os._exit(status)
        if "--once" not in flags:
            wait(lambda: "For research use only" in self.output() or self.ended() is not None)

    def listen(self, spool, *flags, **more):
        self.start(spool, "--listen", self.port, *flags, **more)

    def ended(self):
        """The exit status of the service; None while it runs."""
        if self.process is None:
            return self.status
        found, status = os.waitpid(self.process, os.WNOHANG)
        if found == 0:
            return None
        self.process, self.status = None, os.waitstatus_to_exitcode(status)
        return self.status

    def stop(self):
        if self.process is not None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self.process, self.status = None, -9

    def output(self):
        return self.out.read_text() if self.out.exists() else ""

    def queue(self):
        """What `serve.py status` prints."""
        out = io.StringIO()
        with redirect_stdout(out):
            assert serve.main(["status", "--spool", str(self.spool)]) == 0
        return out.getvalue()

    def reports(self, study, modality="SR"):
        """The stored objects of a modality of a study."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study, "Modality": modality}}
        found = self.orthanc.post("/tools/find", query)
        return [dcmread(io.BytesIO(self.orthanc.file(each))) for each in found]

    def wait_for(self, study, count=1):
        """The reports of a study, once there are so many and the service has nothing left to do."""
        wait(lambda: len(self.reports(study)) >= count and not list((self.spool / "reports").iterdir()))
        found = self.reports(study)
        assert len(found) == count
        return found

    def settled(self):
        """Wait until the service has looked at all that it received."""
        time.sleep(1.0)

    def received(self):
        found = os.walk(self.spool / "received")  # which may be deleted meanwhile
        return sorted(Path(folder, name) for folder, _, names in found for name in names if name.endswith(".dcm"))


def wait(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def send(setting, paths, **how):
    """Send files as `offer` does. The service must take each."""
    assert offer(setting, paths, **how) == [0] * len(paths)


def offer(setting, paths, calling="SENDER", called="GLORESNET", syntax=EXPLICIT, release=True, between=None, tls=None):
    """Send files by C-STORE. Returns the status of each; None if the connection ended or was refused."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    files = [dcmread(path) for path in paths]
    for kind in {one.SOPClassUID for one in files}:
        entity.add_requested_context(kind, syntax)
    association = entity.associate("127.0.0.1", setting.port, ae_title=called, tls_args=tls)
    if not association.is_established:
        return None
    keep_answers(association)
    found = []
    for one in files:
        found.append(association.send_c_store(one).get("Status"))
        if found[-1] is None:  # the connection is gone
            return found
    if between:
        between()
    association.release() if release else association.abort()
    return found


def files(folder):
    return sorted(folder.iterdir())


def evidence(report):
    return {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def words(report):
    return " ".join(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT")


def predecessors(report):
    return [
        instance.ReferencedSOPInstanceUID
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]


def in_order(setting, paths):
    """Files in the order of their slices."""
    return [file.path for file in read([str(path) for path in paths]).sources]


def nothing_private(*texts):
    for text in texts:
        for word in PRIVATE:
            data = text if isinstance(text, bytes) else text.encode()
            assert word.encode() not in data, word
