"""`sites.yaml`: the coordinator's server and the hospitals, and what each kit says about itself."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from run_folder.files import InputError, read_json, read_yaml, write_json

KIT = "gloresnet.json"  # in a kit's `local/`: whose kit it is
SERVER, ADMIN, AUTHORITY = "server", "admin", "authority"
EXAMPLE = "server: {host: train.example.org}, sites: {north: {seed: 11}, river: {seed: 12}}"
PORT, ADMIN_PORT = 8002, 8003
WORDS = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
LONGEST = {"host": 63, "name": 40}  # a certificate takes 64 characters, and the name becomes an address in it


class Sites(NamedTuple):
    """The content of `sites.yaml`."""

    name: str
    """Of the federation; it is in the certificates"""
    host: str
    """Of the server, as the hospitals reach it"""
    port: int
    admin_port: int
    seeds: dict[str, int]
    """Name of a site -> its seed"""


def read_sites(path: Path) -> Sites:
    """Read `sites.yaml`.

    Raises:
        InputError: a name, number or seed is missing, unknown, or there twice.
    """
    content = read_yaml(path)
    server, sites = content.get("server"), content.get("sites")
    if not isinstance(server, dict) or not isinstance(sites, dict) or not sites:
        raise InputError(f"{path} must have a server and sites: {EXAMPLE}.")
    if unknown := sorted({*content} - {"name", "server", "sites"} | {*server} - {"host", "port", "admin_port"}):
        raise InputError(f"{path} has unknown entries {', '.join(unknown)}: {EXAMPLE}.")
    host, name = server.get("host"), content.get("name", "gloresnet")
    for word, value in (("host", host), ("name", name)):
        if not isinstance(value, str) or not re.fullmatch(WORDS, value) or len(value) > LONGEST[word]:
            raise InputError(
                f"{path}: {word} is {value!r}; give at most {LONGEST[word]} letters, digits and hyphens, and points "
                "between them."
            )
    ports = {word: server.get(word, default) for word, default in (("port", PORT), ("admin_port", ADMIN_PORT))}
    for word, port in ports.items():
        if type(port) is not int or not 1 <= port <= 65535:
            raise InputError(f"{path}: {word} is {port!r}; give a number from 1 to 65535.")
    if ports["port"] == ports["admin_port"]:
        raise InputError(f"{path}: port and admin_port are both {ports['port']}: give two numbers.")
    seeds: dict[str, int] = {}
    for site, settings in sites.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", site) or site in (SERVER, ADMIN, AUTHORITY):
            raise InputError(
                f"{path}: {site!r} cannot name a site; use small letters, digits and hyphens, and none of {SERVER}, "
                f"{ADMIN} and {AUTHORITY}."
            )
        if site == host:
            raise InputError(f"{path}: {site} is both the server's host and a site: rename the site.")
        seed = settings.get("seed") if isinstance(settings, dict) and {*settings} == {"seed"} else None
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise InputError(f"{path}: {site} needs a seed and nothing else, such as `{site}: {{seed: 11}}`.")
        if seed in seeds.values():
            raise InputError(f"{path}: two sites have the seed {seed}; they would draw the same. Give each its own.")
        seeds[site] = seed
    return Sites(name, host, ports["port"], ports["admin_port"], seeds)  # type: ignore[arg-type]  # checked above


def write_kit(kit: Path, party: str, sites: Sites) -> None:
    """Say whose kit it is. A hospital's kit names no other hospital."""
    about: dict[str, Any] = {"party": party, "federation": sites.name, "host": sites.host}
    about |= {"sites": sorted(sites.seeds)} if party in (SERVER, ADMIN) else {"seed": sites.seeds[party]}
    write_json(kit / "local" / KIT, about)


def read_kit(kit: Path, *parties: str) -> dict[str, Any]:
    """Read whose kit it is.

    Args:
        kit: the folder.
        parties: `server` or `admin`; none means the kit of a hospital.

    Raises:
        InputError: it is not such a kit.
    """
    path = kit / "local" / KIT
    if not path.is_file():
        raise InputError(f"{kit} is not a startup kit (it has no local/{KIT}): give the folder that `kits` has made.")
    about = read_json(path)
    party = about.get("party")
    expected = party in parties if parties else party not in (SERVER, ADMIN)
    needed = {"sites": list} if party in (SERVER, ADMIN) else {"seed": int}
    if not isinstance(party, str) or not all(isinstance(about.get(name), kind) for name, kind in needed.items()):
        raise InputError(f"{path} is damaged: ask the coordinator for the kit again.")
    if not expected:
        wanted = " or ".join(parties) if parties else "a hospital"
        raise InputError(f"{kit} is the kit of {party}, and this command needs that of {wanted}.")
    return about
