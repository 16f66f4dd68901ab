"""Certificates and passwords. Each function is a test, if test_service.py names it."""

import socket
import socketserver
import ssl
import subprocess
import threading
from contextlib import suppress

from hospital.orthanc import Orthanc, free_port
from tests.hospital.setting import files, nothing_private, offer, send, wait


def encrypted(s):
    """TLS with certificates of both sides for C-STORE; https with a password for DICOMweb."""
    for name in ("ours", "others"):
        files_of = [s.base / f"{name}.key", s.base / f"{name}.pem"]
        call = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        call += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(files_of[0]), "-out", str(files_of[1])]
        subprocess.run(call, check=True, capture_output=True)
    ours, key, others = s.base / "ours.pem", s.base / "ours.key", s.base / "others.pem"
    (s.base / "password").write_text("ZPHISECRET\n")
    tls = ["--certificate", ours, "--key", key, "--ca_file", ours]
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"gloresnet": "ZPHISECRET"}}
    archive = Orthanc(s.base / "secure", ("GLORESNET", s.port), free_port(), free_port(), **users)
    tunnel = Tunnel(archive.http, ours, key)  # the HTTPS of Debian's Orthanc 1.10.1 ends it
    folder, _ = s.study("encrypted")
    url = f"https://127.0.0.1:{tunnel.port}/dicom-web"
    login = ["--user", "gloresnet", "--password_file", s.base / "password"]
    try:
        s.listen("encrypted", "--patience", 0, *tls, *login, archive=url)
        assert offer(s, files(folder)) is None  # without TLS
        assert not offer(s, files(folder), tls=context_of(ours, others, s.base / "others.key"))
        send(s, files(folder), tls=context_of(ours, ours, key))
        wait(lambda: " sent: " in s.output())
        s.listen("encrypted2", "--patience", 0, "--ca_file", ours, archive=url)
        send(s, files(folder))
        wait(lambda: "(HTTP 401)" in s.output())
        s.listen("encrypted2", "--patience", 0, "--ca_file", others, *login, archive=url)
        wait(lambda: "(SSLError)" in s.output())
        nothing_private(s.output(), s.queue())
    finally:
        archive.stop()
        tunnel.server.shutdown()


class Tunnel:
    """TLS in front of a port."""

    def __init__(self, behind, certificate, key):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)

        class Connection(socketserver.BaseRequestHandler):
            def handle(self):
                with suppress(OSError), socket.create_connection(("127.0.0.1", behind)) as inside:
                    outside = context.wrap_socket(self.request, server_side=True)
                    threading.Thread(target=copy_bytes, args=(inside, outside), daemon=True).start()
                    copy_bytes(outside, inside)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def copy_bytes(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def context_of(trusted, certificate, key):
    context = ssl.create_default_context(cafile=trusted)
    context.load_cert_chain(certificate, key)
    return context, "127.0.0.1"
