"""Start Orthanc, a small archive, in a folder of its own: for the demonstration, the tests and the measurements.

Orthanc 1.10 listens on all addresses. So it is only started where there is no network but loopback: see `alone`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from machine.version import PROJECT

PROGRAMS = ("Orthanc", "unshare", "ip")
PLUGIN = "libOrthancDicomWeb.so"
FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins", "/usr/local/share/orthanc/plugins")


def missing() -> str:
    """What is not installed, as a sentence; empty if nothing is."""
    if not sys.platform.startswith("linux"):
        return "Orthanc is started without a network here, which needs Linux."
    names = [name for name in PROGRAMS if shutil.which(name) is None]
    names += [] if plugin() else ["orthanc-dicomweb"]
    if names:
        return f"not installed: {', '.join(names)} (Debian: orthanc, orthanc-dicomweb, util-linux, iproute2)."
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        return "this machine does not allow user namespaces (unshare -rn)."
    return ""


def plugin() -> str:
    """The DICOMweb plugin; empty if it is not installed."""
    found = [path for folder in FOLDERS for path in Path(folder).glob(PLUGIN)]
    return str(found[0]) if found else ""


# a namespace that has nothing but loopback; `$@` is the command
ALONE = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
INSIDE = "GLORESNET_INSIDE"  # environment variable: this process has no network but loopback


def alone(module: str, arguments: list[str]) -> None:
    """Start this program again, `python -m MODULE ARGUMENTS`, without a network. Returns if it has none already."""
    if os.environ.get(INSIDE) != "yes":
        paths = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
        command = [*ALONE, sys.executable, "-m", module, *arguments]
        os.execvpe(command[0], command, os.environ | {INSIDE: "yes", "PYTHONPATH": paths})


class Orthanc:
    """A running Orthanc.

    Args:
        folder: for its files.
        receiver: title and port that it may send to; its name in Orthanc is `service`.
        http, dicom: its ports.
        more: further entries of its configuration.
    """

    def __init__(self, folder: Path, receiver: tuple[str, int], http: int = 8042, dicom: int = 4242, **more: Any):
        self.folder, self.http, self.dicom = folder, http, dicom
        self.url, self.web = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{http}/dicom-web"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": http,
            "DicomPort": dicom,
            "DicomAet": "ARCHIVE",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "OverwriteInstances": False,
            "StableAge": 1,
            "Plugins": [plugin()],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {"service": [receiver[0], "127.0.0.1", receiver[1]]},
            **more,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        """
        Raises:
            OSError: it does not answer.
        """
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
            )
        for _ in range(300):
            if self.process.poll() is not None:
                break
            try:
                self.get("/system")
                return
            except urllib.error.HTTPError:  # it asks for a password
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise OSError(f"Orthanc does not answer on port {self.http}: see {self.folder}/log.txt.")

    def stop(self) -> None:
        if self.process:
            self.process.kill()  # a termination takes it seconds; what it has stored survives both
            self.process.wait()
            self.process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, content: bytes | dict) -> Any:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=120) as answer:
            return json.load(answer)

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance, by its id in Orthanc."""
        with urllib.request.urlopen(f"{self.url}/instances/{instance}/file", timeout=30) as answer:
            return answer.read()

    def upload(self, folder: Path) -> str:
        """Store the files of a study. Returns its id in Orthanc."""
        answers = [self.post("/instances", path.read_bytes()) for path in sorted(folder.rglob("*.dcm"))]
        return answers[0]["ParentStudy"]

    def send(self, study: str) -> None:
        """Send a study to the service by C-STORE.

        Raises:
            OSError: it was not taken.
        """
        self.post("/modalities/service/store", {"Resources": [study], "Synchronous": True})

    def reports(self, modality: str = "SR") -> list[str]:
        """Ids of all instances of a modality."""
        query = {"Level": "Instance", "Query": {"Modality": modality}}
        return self.post("/tools/find", query)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
