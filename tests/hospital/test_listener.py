"""The listener and senders that are silent, break off, or use several associations for one study."""

import socket
import subprocess
import threading
import time

import pytest
from pynetdicom import AE

import hospital.listener
from hospital.listener import VERIFICATION, Listener
from hospital.orthanc import free_port
from hospital.queue import Queue
from hospital.settings import Settings
from hospital.spool import Spool
from tests.dicomfiles.deliveries import slices_of, volume
from tests.hospital.conftest import require_tools
from tests.hospital.encryption import context_of
from tests.hospital.setting import wait

SOON = 10.0  # seconds


@pytest.fixture
def listen(tmp_path):
    """Start a listener, and close it after the test."""
    started = []

    def start(**words):
        settings = Settings(spool=tmp_path / "spool", listen=free_port(), **words)
        spool = Spool(settings.spool, 9, 9, 0)
        queue = Queue(settings.spool)
        listener = Listener(settings, spool, queue)
        listener.port = settings.listen
        started.extend([listener, queue, spool])
        return listener

    yield start
    for each in started:
        each.close()


def _associate(listener, *kinds, tls=None):
    entity = AE(ae_title="SENDER")
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = SOON
    for kind in kinds:
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", listener.port, ae_title="GLORESNET", tls_args=tls)


def _ended(connection):
    """Whether the other side closes a connection soon."""
    connection.settimeout(SOON)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_silent_connections_do_not_keep_others_from_sending_over_tls(listen, tmp_path, monkeypatch):
    """What a port scanner or the check of a load balancer does."""
    require_tools("openssl")
    key, pem = tmp_path / "key", tmp_path / "pem"
    call = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
    call += ["/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(call, check=True, capture_output=True)
    listener = listen(certificate=str(pem), key=str(key), ca_file=str(pem))
    address = "127.0.0.1", listener.port
    with socket.create_connection(address), socket.create_connection(address) as talks:
        talks.sendall(b"GET / HTTP/1.0\r\n\r\n")
        association = _associate(listener, VERIFICATION, tls=context_of(pem, pem, key))
        assert association.is_established and association.send_c_echo().Status == 0
        association.release()
        assert not _associate(listener, VERIFICATION).is_established  # without TLS
        monkeypatch.setattr(hospital.listener, "HANDSHAKE", 0.2)
        with socket.create_connection(address) as late:
            assert _ended(late)
        begin = time.monotonic()
        listener.close()  # the first connection is still silent
        assert time.monotonic() - begin < hospital.listener.IDLE / 6


def test_a_sender_that_stops_within_a_message_is_disconnected(listen):
    listener = listen()
    listener.entity.network_timeout = 0.3
    with socket.create_connection(("127.0.0.1", listener.port)) as connection:
        connection.sendall(b"\x01\x00\x00\x00\x10\x00")  # a request of 4096 bytes, which do not come
        assert _ended(connection)


@pytest.mark.parametrize("stalls", [True, False])
def test_who_stops_within_a_file_has_not_sent_all_however_long_ago_the_last_one_came(listen, monkeypatch, stalls):
    monkeypatch.setattr(hospital.listener, "IDLE", 0.0)
    listener = listen()
    listener.entity.network_timeout = 0.3
    image = slices_of(volume(shape=(8, 8, 3)))[0]
    association = _associate(listener, image.SOPClassUID)
    assert association.send_c_store(image).Status == 0
    if stalls:
        association.dul.socket.socket.sendall(b"\x04\x00\x00\x00\x10\x00" + bytes(100))  # of 4096 bytes
    else:
        association.abort()
    wait(lambda: not listener.busy())
    assert bool(listener.spool.deliveries()[0].cut) == stalls


def test_connections_without_a_request_take_no_place(listen):
    listener = listen()
    listener.entity.maximum_associations = 1
    for _ in range(3):
        socket.create_connection(("127.0.0.1", listener.port)).close()
    wait(lambda: not any(each.is_alive() for each in listener.entity.active_associations))
    association = _associate(listener, VERIFICATION)
    assert association.is_established
    association.release()


def test_a_series_of_which_a_file_was_refused_is_cut_off(listen):
    listener = listen()
    listener.spool.limits = (9, 2)
    images = slices_of(volume(shape=(8, 8, 3)))
    association = _associate(listener, images[0].SOPClassUID)
    assert [association.send_c_store(image).Status for image in images] == [0, 0, 0xA700]
    association.release()
    wait(lambda: not listener.busy())
    assert listener.spool.deliveries()[0].cut


def test_a_file_that_is_stored_after_its_connection_closed_leaves_its_study_free(listen, monkeypatch):
    """The thread of pynetdicom that reads a connection sees its end before the one that stores files is done."""
    store, closed, ended = Listener._store, Listener._closed, threading.Event()
    monkeypatch.setattr(Listener, "_store", lambda self, event: ended.wait(SOON) and store(self, event))
    monkeypatch.setattr(Listener, "_closed", lambda self, event: closed(self, event) or ended.set())
    listener = listen()
    image = slices_of(volume(shape=(8, 8, 3)))[0]
    association = _associate(listener, image.SOPClassUID)
    association.dimse_timeout = 0.2
    assert "Status" not in association.send_c_store(image)  # the sender does not wait longer, and aborts
    wait(listener.spool.deliveries)
    wait(lambda: not listener.busy())
    assert listener.spool.deliveries()[0].cut


def test_a_series_that_was_cut_off_stays_so_until_it_comes_again(listen):
    listener = listen()
    images = {series: slices_of(volume(shape=(8, 8, 3)), study="s", series=series) for series in (1, 2)}
    kind = images[1][0].SOPClassUID

    def send(series, release=True, count=3, between=lambda: None):
        association = _associate(listener, kind)
        assert [association.send_c_store(image).Status for image in images[series][:count]] == [0] * count
        between()
        association.release() if release else association.abort()
        wait(lambda: association not in threading.enumerate())

    def is_cut():
        wait(lambda: not listener.busy())
        return listener.spool.deliveries()[0].cut

    send(1, release=False, count=2)
    assert is_cut()
    send(2)  # another series of the study
    assert is_cut()
    send(1)
    assert not is_cut()
    send(2, count=2, between=lambda: send(2, release=False, count=1))  # two senders of one series
    assert is_cut()
    send(2)
    assert not is_cut()
