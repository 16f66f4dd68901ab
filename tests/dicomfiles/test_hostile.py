"""Hostile deliveries are refused with a sentence, quickly and in little memory."""

import os
import resource
import struct
import time
import tracemalloc
import zipfile
import zlib
from contextlib import contextmanager

import pytest

from dicomfiles import SeriesError, is_delivery, read

from .deliveries import edit, enhanced, save, slices_of, volume
from .test_refusals import refused

IMAGE = volume()


@contextmanager
def bounded(seconds=5, memory=200e6):
    """What is done here ends soon and holds little memory at any moment."""
    resident, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started < seconds
    assert peak < memory and 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) < 2 * memory


def packed(path, members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../ZPHI.dcm", "/etc/ZPHI.dcm", "a/../../ZPHI", "..\\ZPHI.dcm", "C:\\ZPHI.dcm"])
def test_zip_slip(name, tmp_path):
    before = set(tmp_path.parent.iterdir())
    refused(packed(tmp_path / "slip.zip", [(name, "x")]), "a file outside its folder")
    assert set(tmp_path.parent.iterdir()) == before and os.listdir(tmp_path) == ["slip.zip"]


def test_zip_bombs(tmp_path):
    zeros = bytes(1 << 20)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("ZPHI.dcm", "w") as member:
        for _ in range(80):
            member.write(zeros)
    with bounded():
        refused(bomb, r"is a zip compressed \d+ times, as no scan is")
    # one that lies about its size, which the list of files states
    lying = packed(tmp_path / "lying.zip", [("ZPHI.dcm", bytes(128) + b"DICM" + bytes(2 << 20))])
    content = lying.read_bytes()
    for signature, at in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        place = content.index(signature) + at
        content = content[:place] + struct.pack("<I", 2000) + content[place + 4 :]
    lying.write_bytes(content)
    with bounded():
        refused(lying, r"1 damaged DICOM file\(s\)")
    # one that claims more than any study has
    at = content.index(b"PK\1\2") + 24
    (tmp_path / "claim.zip").write_bytes(content[:at] + struct.pack("<I", 0xFFFFFFF0) + content[at + 4 :])
    refused(tmp_path / "claim.zip", "unpacks to 4.29 GB")
    # nested zips are not opened
    refused(packed(tmp_path / "nested.zip", [("inner.zip", bomb.read_bytes())]), "has no DICOM file")


def test_other_bad_zips(tmp_path):
    good = packed(tmp_path / "good.zip", [(path.name, path.read_bytes()) for path in
                                          save(slices_of(IMAGE), tmp_path / "study").iterdir()])  # fmt: skip
    content = good.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[:-400])
    refused(tmp_path / "cut.zip", "is a damaged zip")
    (tmp_path / "flipped.zip").write_bytes(content[:900] + bytes([content[900] ^ 255]) + content[901:])
    refused(tmp_path / "flipped.zip", "damaged DICOM file")
    encrypted = bytearray(content)
    at = content.index(b"PK\1\2")
    encrypted[at + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(encrypted)
    refused(tmp_path / "secret.zip", "is an encrypted zip")
    link = zipfile.ZipInfo("ZPHI")
    link.external_attr = 0o120777 << 16
    refused(packed(tmp_path / "link.zip", [(link, "/etc/passwd")]), "links instead of files")
    at = content.index(b"PK\5\6")
    (tmp_path / "list.zip").write_bytes(content[: at + 12] + struct.pack("<I", 500_000_000) + content[at + 16 :])
    refused(tmp_path / "list.zip", "a zip whose list of files is longer than 4 MB")


def test_100_000_tiny_files(tmp_path, monkeypatch):
    archive = packed(tmp_path / "many.zip", [("name", b"")])
    content = archive.read_bytes()
    listed, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[listed:end] * 100_000
    length = struct.pack("<I", len(entries))
    archive.write_bytes(content[:listed] + entries + content[end : end + 12] + length + content[end + 16 :])
    with bounded():
        refused(archive, "a zip whose list of files is longer than 4 MB")
    # also without that list, and as a folder
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(101):
        (folder / str(number)).write_bytes(b"x")
    monkeypatch.setattr("dicomfiles.delivery.MAX_FILES", 100)
    refused(folder, "has more than 100 files: give the folder of the T2-weighted series alone")
    monkeypatch.setattr("dicomfiles.delivery.MAX_DIRECTORY", 1e9)
    refused(packed(tmp_path / "few.zip", [(str(number), b"x") for number in range(101)]), "has more than 100 files")


def test_pipes_links_and_loops(tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    os.mkfifo(folder / "ZPHIPIPE")
    (folder / "loop").symlink_to(folder)
    (folder / "zero").symlink_to("/dev/zero")
    assert read(folder).plane == "axial"
    refused(folder / "ZPHIPIPE", "cannot be read")
    assert not is_delivery(folder / "ZPHIPIPE") and not is_delivery("/dev/zero") and not is_delivery("a\0b")
    (folder / "lost").symlink_to(tmp_path / "ZPHIGONE")
    refused(folder, "contains a link to a missing file")


def nested(depth: int, defined: bool) -> bytes:
    """A private sequence in a sequence in a sequence ..., explicit little endian."""
    inner = b""
    for _ in range(depth):
        if defined:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
            inner = b"\x09\x00\x10\x10SQ\0\0" + struct.pack("<I", len(item)) + item
        else:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
            inner = b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return inner


@pytest.mark.parametrize("defined", [False, True])
def test_deep_sequences(defined, tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    path = sorted(folder.iterdir())[3]
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")  # before the patient
    path.write_bytes(content[:at] + nested(3000, defined) + content[at:])
    if defined:  # skipped whole
        assert read(folder).plane == "axial"
    else:
        with bounded():
            refused(folder, r"has a damaged header \(RecursionError\)")


def test_a_header_without_end(tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    path = sorted(folder.iterdir())[3]
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    filler = (b"\x09\x00\x10\x10LO" + struct.pack("<H", 60_000) + b"x" * 60_000) * 400
    path.write_bytes(content[:at] + filler + content[at:])
    with bounded():
        refused(folder, r"1 damaged DICOM file\(s\), the first of which ends before its pixels")


def test_a_header_of_empty_items(tmp_path, monkeypatch):
    folder = save([enhanced(IMAGE)], tmp_path / "study")
    (path,) = folder.iterdir()
    content = path.read_bytes()
    at = content.index(b"\x10\x00\x10\x00PN")
    sequence = (
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 120_000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    path.write_bytes(content[:at] + sequence + content[at:])
    with bounded():
        refused(folder, "the first of which has more header than scans have")
    path.write_bytes(content)
    monkeypatch.setattr("dicomfiles.headers.MAX_FRAMES", 9)
    refused(folder, "more frames than scans have")


def test_an_error_of_another_kind_gives_only_its_type(tmp_path, monkeypatch):
    def fails(*_arguments):
        raise OSError("ZPHI")

    monkeypatch.setattr("dicomfiles.reading.decode", fails)
    refused(save(slices_of(IMAGE), tmp_path / "study"), r"study cannot be read \(OSError\): copy it again")


def test_a_deflated_bomb(tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study", "1.2.840.10008.1.2.1.99")
    path = sorted(folder.iterdir())[3]
    content = path.read_bytes()
    meta_end = 144 + struct.unpack("<I", content[140:144])[0]
    body = zlib.decompressobj(-15).decompress(content[meta_end:])
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(body[: body.index(b"\x10\x00\x10\x00PN")])
    bomb += deflate.compress(b"\x09\x00\x10\x10UN\0\0" + struct.pack("<I", 100 << 20))
    for _ in range(100):
        bomb += deflate.compress(bytes(1 << 20))
    bomb += deflate.flush()
    path.write_bytes(content[:meta_end] + bomb)
    with bounded():
        refused(folder, r"1 damaged DICOM file\(s\)")


def test_rows_and_columns_that_fill_the_memory(tmp_path):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    for rows, words in [(2000, "has fewer pixels than its header says"), (60_000, "claims slices of 60000 x 60000")]:
        edit(folder, lambda one, _, rows=rows: (setattr(one, "Rows", rows), setattr(one, "Columns", rows)))
        with bounded():
            refused(folder, words)


def test_too_many_voxels(tmp_path, monkeypatch):
    monkeypatch.setattr("dicomfiles.stacking.MAX_VOLUME", 4 * 20 * 24 * 10 - 1)
    refused(save(slices_of(IMAGE), tmp_path / "study"), "GB of voxels, more than")


def test_without_the_packages(tmp_path, monkeypatch):
    folder = save(slices_of(IMAGE), tmp_path / "study")
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(SeriesError, match=r"without the package pydicom .*pip install -r requirements-hospital.txt"):
        read(folder)
