"""Receive studies by C-STORE."""

import functools
import io
import sqlite3
import ssl
import threading
import time
from typing import Any

from dicomfiles.headers import ENHANCED, MR_IMAGE

from .queue import Queue
from .settings import Settings
from .spool import OtherImage, Spool, SpoolFull, tag

MR = (MR_IMAGE, *ENHANCED)
VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
HANDSHAKE = 10.0  # seconds for that of TLS
IDLE = 30.0  # seconds; who closes a connection without a release after such a pause between two files has sent all
ABORT = 10  # bytes; whoever sent more since the last file was sending another one
SUCCESS, OUT_OF_RESOURCES, OTHER_OBJECT, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
OTHER_IMAGE = 0xC001, "another image came before under this SOPInstanceUID"  # status, comment of at most 64 letters
MAX_PDU = 1 << 20  # bytes; we ask senders for at most 16 KiB


class Listener:
    """Receives from the moment it is made until `close`.

    Args:
        settings: port, titles, limits.
        spool: takes the files.
        queue: knows the images that were reported.

    Raises:
        OSError: the port is in use.
    """

    def __init__(self, settings: Settings, spool: Spool, queue: Queue):
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

        assert settings.listen is not None
        self.spool, self.queue, self.max_bytes = spool, queue, settings.max_file_mb * 1_000_000
        self.open: dict[Any, set[tuple[str, str]]] = {}  # studies and series that associations have brought so far
        self.others: set[str] = set()  # studies with an image that was refused because another one came before
        self.lock = threading.Lock()
        entity = AE(ae_title=settings.aet)
        entity.require_called_aet = True
        entity.require_calling_aet = list(settings.callers)
        entity.maximum_associations = settings.max_associations
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(VERIFICATION)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        secure: Any = tls_context(settings, server=True) if settings.certificate else None
        if secure:  # pynetdicom would wait for the handshake of one sender before it accepts the next: see `_opened`
            secure.wrap_socket = functools.partial(secure.wrap_socket, do_handshake_on_connect=False)
        address = settings.host, settings.listen
        try:
            server: Any = entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=secure)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(
                f"nothing can listen on {address[0]}:{address[1]} ({reason}): choose another --listen"
            ) from None
        server.daemon_threads = True  # `close` waits for no handshake
        self.entity = entity

    def close(self) -> None:
        self.entity.shutdown()

    def busy(self) -> set[str]:
        """The studies that associations, which are still open, have brought."""
        with self.lock:
            for association in [each for each in self.open if not each.is_alive()]:
                del self.open[association]  # its last file, which had waited, was stored after `_closed`
            return {study for brought in self.open.values() for study, _ in brought}

    def take_others(self) -> set[str]:
        """The studies with an image that was refused, since the last call, because another one came before."""
        with self.lock:
            found, self.others = self.others, set()
        return found

    def _opened(self, event: Any) -> None:
        """Limit how long a connection may take and how many bytes of one file it may send, in a thread of its own.

        pynetdicom would wait for ever for the handshake of TLS and the rest of a message, and keep all in memory.
        """
        connection = event.assoc.dul.socket
        receive, event.assoc.received, event.assoc.last = connection.recv, 0, time.monotonic()
        # series; those that another association broke off, or of which a file was refused
        event.assoc.marked, event.assoc.incomplete = set(), set()
        try:
            if isinstance(connection.socket, ssl.SSLSocket):
                connection.socket.settimeout(HANDSHAKE)
                connection.socket.do_handshake()
            connection.socket.settimeout(event.assoc.network_timeout)
        except OSError:  # too slow, or not TLS; nothing was received
            connection.close()

        def limited(count: int) -> Any:
            event.assoc.received += count
            if count > MAX_PDU or event.assoc.received > self.max_bytes:
                raise ConnectionError
            return receive(count)

        connection.recv = limited

    def _store(self, event: Any) -> Any:
        from pydicom import dcmread

        event.assoc.received = 0
        try:
            if event.request.AffectedSOPClassUID not in MR:
                return SUCCESS  # or the transfer of a whole study would fail
            data = event.encoded_dataset()
            tags = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
            header = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=tags)
            study, instance = str(header.get("StudyInstanceUID", "")), str(header.get("SOPInstanceUID", ""))
            series = tag(study), tag(str(header.get("SeriesInstanceUID", "")))
            if instance != event.request.AffectedSOPInstanceUID or header.get("SOPClassUID") not in MR:
                return OTHER_OBJECT
        except Exception:  # damaged bytes can make pydicom raise anything
            return NOT_UNDERSTOOD
        if not study or not instance:
            return NOT_UNDERSTOOD
        with self.lock:
            self.open.setdefault(event.assoc, set()).add(series)
            event.assoc.last = time.monotonic()
        try:
            self.spool.keep(study, instance, data, self.queue.image(tag(study), tag(instance)))
        except (SpoolFull, sqlite3.Error):
            with self.lock:
                event.assoc.incomplete.add(series)
            return OUT_OF_RESOURCES
        except OtherImage:
            with self.lock:
                self.others.add(tag(study))
            return refusal(*OTHER_IMAGE)
        if series not in event.assoc.marked:
            event.assoc.marked.add(series)
            self.spool.mark_cut(*series, cut=True)  # until it ends; a death in between leaves the mark
        return SUCCESS

    def _released(self, event: Any) -> None:
        self._end(event.assoc, cut=False)

    def _closed(self, event: Any) -> None:
        """Without a release before, the transfer was cut off, unless the sender was done long ago."""
        association = event.assoc
        if association.requestor.primitive is None:  # it would wait for a request, and count as one of the associations
            association.dul.to_user_queue.put(None)
        self._end(association, cut=association.received > ABORT or time.monotonic() < association.last + IDLE)

    def _end(self, association: Any, cut: bool) -> None:
        """Remove the marks of what an association brought, unless it or another one was cut off, or is bringing it."""
        with self.lock:
            brought = self.open.pop(association, set())
            if cut:
                for other, has in self.open.items():  # which may bring another part of the same series
                    other.incomplete |= brought & has
                return
            whole = brought - association.incomplete
            for other in self.open:
                other.incomplete -= whole  # it came again
            for study, series in whole - set().union(*self.open.values()):
                self.spool.mark_cut(study, series, cut=False)


def refusal(status: int, comment: str) -> Any:
    """An answer with a comment, which senders write into their logs."""
    from pydicom import Dataset

    answer = Dataset()
    answer.Status, answer.ErrorComment = status, comment
    return answer


def tls_context(settings: Settings, server: bool) -> ssl.SSLContext:
    """TLS for DIMSE, with certificates on both sides.

    Args:
        settings: `certificate`, `key` and `ca_file`.
        server: whether to receive.

    Raises:
        OSError: a file is not what it should be.
    """
    assert settings.certificate is not None
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    try:
        context = ssl.create_default_context(purpose, cafile=settings.ca_file)
        context.load_cert_chain(settings.certificate, settings.key, password="")  # so that it never asks for one
    except ssl.SSLError as error:
        raise OSError(
            f"--certificate, --key or --ca_file cannot be used ({error.reason or type(error).__name__}): give PEM files"
            " that belong together, and a key without a password"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if server and settings.ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
