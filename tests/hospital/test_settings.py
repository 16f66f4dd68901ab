"""Settings of the service: a file and flags mean the same, and contradictions are wrong calls."""

import dataclasses

import pytest

import serve
from hospital.settings import Settings, read_settings
from hospital.spool import Spool, SpoolFull, tag
from modeling_gloresnet import GloResNetConfig, GloResNetForImageClassification
from preprocessing import GloResNetImageProcessor
from publishing.export import export_model
from run_folder.files import InputError

GOOD = ["--model", "m", "--listen", "11112", "--archive", "http://127.0.0.1:8042/dicom-web"]


def test_a_file_and_flags_mean_the_same(tmp_path):
    flags = [*GOOD, "--callers", "PACS", "MR 1", "--spool", "here", "--settle", "3", "--plane", "axial"]
    given = serve.settings_of(serve.parse_arguments(flags))
    config = tmp_path / "c.yaml"
    config.write_text(
        "model: m\nlisten: 11112\narchive: http://127.0.0.1:8042/dicom-web\ncallers: [PACS, MR 1]\nspool: here\n"
        "settle: 3\nplane: axial\n"
    )
    assert read_settings({}, config) == given
    assert read_settings({"settle": 9.0}, config) == dataclasses.replace(given, settle=9.0)
    assert given.polls is None and Settings(archive="http://x").polls == 30


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--archive", "http://127.0.0.1/d"], "no model was given"),
        (["--model", "m", "--send_to", "A@b:1"], "nothing can arrive"),
        (["--model", "m", "--listen", "11112"], "nowhere to go"),
        ([*GOOD, "--host", "0.0.0.0"], "name the senders"),
        ([*GOOD, "--aet", "SEVENTEENLETTERSX"], "AE title"),
        ([*GOOD, "--send_to", "A@b"], "TITLE@HOST:PORT"),
        ([*GOOD[:-1], "ftp://x"], "is no address"),
        ([*GOOD[:-1], "http://[x"], "is no address"),
        ([*GOOD[:-1], "http://x:99999"], "is no address"),
        ([*GOOD[:-1], "https://u:p@x"], "holds a user or password"),
        ([*GOOD, "--send_to", "A@b:99999"], "TITLE@HOST:PORT"),
        ([*GOOD, "--days", "99999999"], "at most 36500"),
        ([*GOOD, "--token_file", serve.__file__], "does not hold one line"),
        ([*GOOD[:-1], "http://pacs.example/d", "--token_file", __file__], "unencrypted"),
        ([*GOOD, "--user", "u"], "belong together"),
        ([*GOOD, "--certificate", __file__], "belong together"),
        ([*GOOD, "--ca_file", "gone.pem"], "is not a file"),
        ([*GOOD, "--settle", "-1"], "not possible"),
        ([*GOOD, "--settle", "nan"], "not possible"),
        ([*GOOD[:2], "--listen", "0", *GOOD[4:]], "not a port"),
        ([*GOOD, "--model", "gone"], "does not exist"),
        (["status", "--spool", "gone"], "has no queue"),
    ],
)
def test_wrong_calls(flags, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert serve.main(flags) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["colour: red", "listen: many", "settle: true", "plane: oblique", "callers: [1.5]"])
def test_wrong_files(text, tmp_path):
    (tmp_path / "c.yaml").write_text(f"model: m\n{text}\n")
    with pytest.raises(InputError, match=text.split(":")[0]):
        read_settings({}, tmp_path / "c.yaml")


def test_a_full_disk_leaves_nothing(small_disk):
    """A real full disk: the file is refused as a whole, the one before stays."""
    disk = small_disk(2_000_000)
    spool = Spool(disk / "spool", 10, 10, 0)
    spool.keep("1.2", "1.2.3", b"x" * 100_000)
    for size in (3_000_000, 1_990_000):
        with pytest.raises(SpoolFull):
            spool.min_free = -10_000_000  # so that the write itself fails
            spool.keep("1.2", "1.2.4", b"x" * size)
    assert [path.name for path in (spool.received / tag("1.2")).iterdir()] == [f"{tag('1.2.3')}.dcm"]


def test_what_comes_during_a_look_is_not_deleted(tmp_path):
    spool = Spool(tmp_path / "spool", 10, 10, 0)
    spool.keep("1.2", "1.2.3", b"a")
    (before,) = spool.deliveries()
    spool.keep("1.2", "1.2.4", b"b")
    assert not spool.clear(before)
    (after,) = spool.deliveries()
    assert len(after.files) == 2 and spool.clear(after) and not spool.deliveries()


def test_a_model_that_needs_masks_is_refused(tmp_path, capsys):
    config = GloResNetConfig(image_size=32, stem_channels=4, widths=[4, 8, 8, 16])
    processor = GloResNetImageProcessor(image_size=32, brain_mask="required")
    export_model(GloResNetForImageClassification(config), processor, tmp_path / "model", "card")
    assert serve.main(["--model", str(tmp_path / "model"), *GOOD[2:], "--spool", str(tmp_path / "spool")]) == 2
    assert "needs brain masks" in capsys.readouterr().err and not (tmp_path / "spool").exists()
