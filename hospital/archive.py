"""The archive: find and fetch studies by DICOMweb, send documents by DICOMweb or C-STORE."""

import datetime
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dicomfiles.age import too_old
from dicomfiles.contrast import judge
from dicomfiles.delivery import File, Opened
from dicomfiles.headers import Headers

from .lines import SHORT
from .listener import MR, tls_context
from .settings import Settings
from .spool import HEADERS, tag

TIMEOUT = 20.0  # seconds
NO_MORE = (400, 404, 501)  # what an archive may answer after its last page, or if it does not know `offset`
EXPLICIT = "1.2.840.10008.1.2.1"


class ArchiveError(Exception):
    """The archive cannot be reached, or does not take or give something. The message holds nothing of a patient.

    Attributes:
        answered: it was reached, and said no to this one thing; others may go.
    """

    def __init__(self, message: str, answered: bool = False):
        super().__init__(message)
        self.answered = answered


class Found(NamedTuple):
    """A series of MR in an archive: UIDs, and how many instances it has there."""

    study: str
    series: str
    size: int


@contextmanager
def said(what: str) -> Iterator[None]:
    """Turn any error of a library into one that holds no address of a study."""
    try:
        yield
    except ArchiveError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        kind = f"HTTP {status}" if status else type(error).__name__
        odd = isinstance(error, (ValueError, TypeError, AttributeError))  # an answer, but not of the kind asked for
    else:
        return
    raise ArchiveError(f"{what} ({kind})", answered=status is not None or odd)


class Archive:
    """An archive that speaks DICOMweb.

    Args:
        settings: `archive`, `user`, `password_file`, `token_file`, `ca_file`, `days`.
    """

    def __init__(self, settings: Settings):
        import requests
        from dicomweb_client.api import DICOMwebClient

        assert settings.archive is not None
        session = requests.Session()
        session.trust_env = False  # no proxy, no .netrc
        if settings.ca_file:
            session.verify = settings.ca_file
        if settings.user and settings.password_file:
            session.auth = settings.user, Path(settings.password_file).read_text(encoding="utf-8").strip()
        headers = {}
        if settings.token_file:
            headers["Authorization"] = f"Bearer {Path(settings.token_file).read_text(encoding='utf-8').strip()}"
        self.client = DICOMwebClient(settings.archive, session=session, headers=headers, timeout=TIMEOUT)
        self.client.set_http_retry_params(retry=False)  # the queue repeats, and does not block
        self.days, self.folder = settings.days, settings.spool

    def find(self) -> tuple[list[Found], str]:
        """The MR series of studies of the last days.

        Returns:
            The series, and a sentence about studies whose series the archive does not list, empty if it lists all.

        Raises:
            ArchiveError: it cannot be searched at all.
        """
        today = datetime.date.today()
        dates = f"{today - datetime.timedelta(self.days):%Y%m%d}-{today + datetime.timedelta(1):%Y%m%d}"
        found, problems = [], []
        with said("the archive cannot be searched"):
            filters = {"ModalitiesInStudy": "MR", "StudyDate": dates}
            uids = list(search_all("0020000D", self.client.search_for_studies, search_filters=filters))
        for study in uids:
            try:
                with said(f"the archive does not list the series of study {tag(study)[:SHORT]}"):
                    found += self._series_of(study)
            except ArchiveError as error:
                if not error.answered:  # the others would wait as long, and in vain
                    raise
                problems.append(str(error))
        more = f", nor those of {len(problems) - 1} more" if len(problems) > 1 else ""
        return found, f"{problems[0]}{more}" if problems else ""

    def _series_of(self, study: str) -> list[Found]:
        """The MR series of a study."""
        fields, filters = ["NumberOfSeriesRelatedInstances"], {"Modality": "MR"}
        series = search_all("0020000E", self.client.search_for_series, study, fields=fields, search_filters=filters)
        return [
            Found(study, uid, int(value(each, "00201209") or 0))
            for uid, each in series.items()
            if value(each, "00080060") in ("MR", None)
        ]

    def wanted(self, found: Found) -> bool:
        """Whether a series may be T2-weighted and of a newborn, from its headers; only then it is fetched.

        Raises:
            ArchiveError
        """
        from pydicom import Dataset

        with (
            said("the archive gives no headers"),
            tempfile.TemporaryDirectory(prefix=HEADERS, dir=self.folder) as folder,
            Opened() as opened,
        ):
            headers, instances = Headers(opened), []
            for number, each in enumerate(self.client.retrieve_series_metadata(found.study, found.series)):
                header = Dataset.from_json(each, bulk_data_uri_handler=lambda *_: b"")
                header.PixelData = b"\0\0"
                path = Path(folder) / str(number)
                path.write_bytes(as_file(header, EXPLICIT))
                read = headers.read(File(str(path), path.stat().st_size))
                if read and read.instance:
                    instances.append(read.instance)
            return bool(instances) and judge(instances).t2w != "no" and not any(map(too_old, instances))

    def fetch(self, found: Found) -> Iterator[tuple[str, str, bytes]]:
        """Study, instance and file of each MR image of a series, in the encoding that the archive has.

        Raises:
            ArchiveError: also if fewer came than the archive has.
        """
        count = 0
        with said("the archive does not give a series"):
            kinds = (("application/dicom", "*"),)
            for each in self.client.iter_series(found.study, found.series, media_types=kinds):
                count += 1
                if str(each.SOPClassUID) in MR:
                    yield str(each.StudyInstanceUID), str(each.SOPInstanceUID), as_file(each)
        if count < found.size:
            raise ArchiveError(f"the archive gave {count} of {found.size} instances")

    def store(self, paths: Sequence[Path]) -> None:
        """Send files, one after another.

        Raises:
            ArchiveError: a file was not stored.
        """
        for path in paths:
            with said("the archive does not take a report"):
                self._store_one(path)

    def _store_one(self, path: Path) -> None:
        from pydicom import dcmread

        one = dcmread(path)
        answer = self.client.store_instances([one])
        taken = {str(each.ReferencedSOPInstanceUID) for each in answer.get("ReferencedSOPSequence") or []}
        if str(one.SOPInstanceUID) not in taken:  # an empty FailedSOPSequence proves nothing
            raise ArchiveError("the archive does not confirm that it stored a report", answered=True)


class Receiver:
    """An archive that takes documents by C-STORE.

    Args:
        settings: `send_to`, `aet`, and TLS.
    """

    def __init__(self, settings: Settings):
        assert settings.send_to is not None
        self.settings = settings
        self.title, address = settings.send_to.split("@")
        host, port = address.rsplit(":", 1)
        self.address = host, int(port)

    def store(self, paths: Sequence[Path]) -> None:
        """Send files.

        Raises:
            ArchiveError: a file was not stored.
        """
        from pydicom import dcmread
        from pynetdicom import AE

        entity = AE(ae_title=self.settings.aet)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = TIMEOUT
        files = [dcmread(path) for path in paths]
        for kind in dict.fromkeys(one.SOPClassUID for one in files):
            entity.add_requested_context(kind, EXPLICIT)
        secure = (tls_context(self.settings, server=False), self.address[0]) if self.settings.certificate else None
        with said("the receiver cannot be reached"):
            association = entity.associate(*self.address, ae_title=self.title, tls_args=secure)
        if not association.is_established:
            raise ArchiveError("the receiver refuses the association, or cannot be reached")
        keep_answers(association)
        try:
            for one in files:
                with said("the receiver does not take a report"):
                    status = association.send_c_store(one)
                code = status.get("Status")
                if code is None or code not in (0x0000, 0xB000, 0xB006, 0xB007):  # success, or stored with a warning
                    shown = "no answer" if code is None else f"status {code:#06x}"
                    raise ArchiveError(f"the receiver does not take a report ({shown})", answered=code is not None)
        finally:
            association.release()


def search_all(uid: str, search: Any, *where: Any, **how: Any) -> dict[str, Any]:
    """All pages of the answer to a search, by the tag of a UID. An archive may limit how much it answers at once.

    `get_remaining` of dicomweb_client does the same, but asks without end if an archive does not know `offset`.
    """
    found: dict[str, Any] = {}
    asked = 0
    while True:
        try:
            page = search(*where, **how, offset=asked or None)
        except Exception as error:  # of requests
            if asked and getattr(getattr(error, "response", None), "status_code", None) in NO_MORE:
                return found
            raise
        asked += len(page)
        new = {name: each for each in page if (name := value(each, uid)) and name not in found}
        if not new:
            return found
        found |= new


def keep_answers(association: Any) -> None:
    """Let nobody but the sender take the answers of an association that we asked for.

    pynetdicom 3.0.4 pauses the thread of the association while it sends. On a busy machine the thread may have passed
    its check just before. Then it takes the answer and drops it, and the sender waits for it until its timeout.
    """
    get = association.dimse.get_msg
    association.dimse.get_msg = lambda block=False: get(block) if block else (None, None)  # the sender blocks


def as_file(dataset: Any, syntax: str | None = None) -> bytes:
    """A dataset as a file of Part 10."""
    from pydicom.dataset import FileMetaDataset

    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    if syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def value(item: dict[str, Any], tag: str) -> Any:
    """The first value of a tag in DICOM JSON; None if it has none."""
    return (item.get(tag, {}).get("Value") or [None])[0]
