"""Startup kits: `sites.yaml`, what a kit holds, and how strict it is."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from federated.sites import read_kit, read_sites
from run_folder.files import InputError
from tests.federated.conftest import require_nvflare

require_nvflare()

from federated.kits import make_kits  # noqa: E402
from federated.parties import check_kit  # noqa: E402

SITES = "name: newborns\nserver: {host: localhost, port: 18002, admin_port: 18003}\nsites:\n  north: {seed: 1}\n"


def sites(tmp_path, text=SITES):
    path = tmp_path / "sites.yaml"
    path.write_text(text)
    return read_sites(path)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def kits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kits")
    make_kits(sites(folder, SITES + "  river: {seed: 2}\n"), folder / "kits")
    return folder / "kits"


def test_a_hospital_builds_our_class_alone_and_gives_nobody_a_view_of_its_files(kits):
    local = kits / "north" / "local"
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_allow_list"] == ["federated.flare.SiteExecutor"]
    assert resources["class_list_enforcement_mode"] == "enforce" and resources["allow_log_streaming"] is False
    assert "log" not in json.dumps([part["path"] for part in resources["components"]])
    permissions = json.loads((local / "authorization.json").read_text())["permissions"]
    assert permissions.keys() == {"project_admin"}
    for right in ("byoc", "shell_commands", "download_job", "operate"):
        assert permissions["project_admin"][right] == "none"
    assert not list(kits.rglob("*.default")) or [path.parent.parent.name for path in kits.rglob("*.default")] == [
        "admin"
    ]


def test_a_kit_is_its_owners_and_names_no_other_hospital(kits):
    for path in [kits, *kits.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    for name, text in contents(kits / "north").items():
        assert b"river" not in text, name
    assert (kits / "north" / "startup" / "client.key").read_bytes() not in contents(kits / "server").values()
    assert not list((kits / "north").rglob("cert.json"))  # the authority's key


def test_the_wrong_kit_is_refused_with_a_sentence(kits, tmp_path):
    assert read_kit(kits / "north")["seed"] == 1
    assert read_kit(kits / "server", "server")["sites"] == ["north", "river"]
    with pytest.raises(InputError, match="is the kit of server, and this command needs that of a hospital"):
        read_kit(kits / "server")
    with pytest.raises(InputError, match="is the kit of north, and this command needs that of admin"):
        read_kit(kits / "north", "admin")
    with pytest.raises(InputError, match="is not a startup kit"):
        read_kit(tmp_path)


def test_a_hospital_that_is_added_later_gets_a_kit_and_the_others_keep_theirs(kits, tmp_path):
    copy = shutil.copytree(kits, tmp_path / "kits")
    before = contents(copy / "north")
    more = SITES + "  river: {seed: 2}\n  south: {seed: 3}\n"
    assert [kit.name for kit in make_kits(sites(tmp_path, more), copy)] == ["south"]
    assert contents(copy / "north") == before
    root = "startup/rootCA.pem"
    assert (copy / "south" / root).read_bytes() == (copy / "north" / root).read_bytes()
    assert read_kit(copy / "admin", "admin")["sites"] == ["north", "river", "south"]
    assert make_kits(sites(tmp_path, more), copy) == []
    with pytest.raises(InputError, match="holds kits of .*18002.*, not of .*18004"):
        make_kits(sites(tmp_path, more.replace("18002", "18004")), copy)
    with pytest.raises(InputError, match="river has the seed 2, not 7: write 2 for river again"):
        make_kits(sites(tmp_path, more.replace("seed: 2", "seed: 7")), copy)


def test_a_kit_that_is_not_whole_or_has_expired_is_refused_before_anything_waits(kits, tmp_path):
    for party in ("server", "admin", "north"):
        copy = shutil.copytree(kits / party, tmp_path / party)
        copy.chmod(0o755)
        check_kit(copy)
        assert copy.stat().st_mode & 0o777 == 0o700  # closed again
        with pytest.raises(InputError, match=r"The certificate in .* expired on 20\d\d-\d\d-\d\d: the coordinator"):
            check_kit(copy, datetime.now(UTC) + timedelta(days=361))
        next((copy / "startup").glob("*.crt")).write_text("no certificate")
        with pytest.raises(InputError, match=r"\.crt is damaged: copy the whole kit again"):
            check_kit(copy)
        next((copy / "startup").glob("*.key")).unlink()
        with pytest.raises(InputError, match=r"is not whole \(startup/.*\.key is missing\)"):
            check_kit(copy)


@pytest.mark.parametrize(
    "change, message",
    [
        (("north:", "North:"), "'North' cannot name a site"),
        (("north:", "server:"), "'server' cannot name a site"),
        (("{seed: 1}", "{}"), "north needs a seed and nothing else"),
        (("{seed: 1}", "{seed: -1}"), "north needs a seed and nothing else"),
        (("north: {seed: 1}", "north: {seed: 1}\n  river: {seed: 1}"), "two sites have the seed 1"),
        (("18002", "70000"), "port is 70000; give a number from 1 to 65535"),
        (("18003", "18002"), "port and admin_port are both 18002"),
        (("localhost", "'a b'"), "host is 'a b'"),
        (("localhost", "a..b"), "host is 'a..b'"),
        (("localhost", "north"), "north is both the server's host and a site"),
        (("newborns", "n" * 41), "give at most 40 letters"),
        (("newborns", "new-"), "name is 'new-'"),
        (("host:", "hst:"), "unknown entries hst"),
        (("sites:", "hospitals:"), "must have a server and sites"),
    ],
)
def test_a_wrong_file_of_sites_is_refused_with_a_sentence(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        sites(tmp_path, SITES.replace(*change))
