"""Startup kits: certificates and settings of the server, the coordinator and each hospital, hardened.

NVFlare makes them; its own defaults are wider than this project needs. A hospital's kit forbids code from outside,
builds one class of this project and nothing else, sends no log, and lets nobody read its files from afar.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from nvflare.lighter.provision import prepare_builders, prepare_project
from nvflare.lighter.provisioner import Provisioner

from run_folder.files import InputError, write_json

from .sites import ADMIN, AUTHORITY, KIT, SERVER, Sites, read_kit, write_kit

CLASSES = {SERVER: "federated.flare.Coordinator", "site": "federated.flare.SiteExecutor"}  # all that a job may build
# what the coordinator's login may do at the server and at every hospital; no other login exists
RIGHTS = {
    **dict.fromkeys(("submit_job", "manage_job", "view", "app_command"), "any"),
    **dict.fromkeys(
        ("clone_job", "download_job", "operate", "shell_commands", "byoc", "server-predeployed-flwr"), "none"
    ),
}
BUILDERS = {  # of NVFlare, with their arguments
    "workspace.WorkspaceBuilder": {"template_file": ["master_template.yml"]},
    "static_file.StaticFileBuilder": {"config_folder": "config", "scheme": "grpc"},
    "cert.CertBuilder": {},
    "signature.SignatureBuilder": {},
}


def make_kits(sites: Sites, output: Path) -> list[Path]:
    """Make a kit for everybody who has none in `output` yet. The keys of the authority stay in `output/authority`.

    Args:
        sites: of the federation.
        output: created if needed, for the coordinator's eyes only.

    Returns:
        The new kits. The list of sites is renewed in the kits of the server and of the coordinator.

    Raises:
        InputError: the folder holds kits of another federation, for another server, or with other seeds.
    """
    before = os.umask(0o077)
    try:
        return _make_kits(sites, output)
    finally:
        os.umask(before)


def _make_kits(sites: Sites, output: Path) -> list[Path]:
    output.mkdir(parents=True, exist_ok=True)
    output.chmod(0o700)
    record = output / AUTHORITY / "federation.json"
    address = {"name": sites.name, "host": sites.host, "port": sites.port, "admin_port": sites.admin_port}
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        if before != address:
            raise InputError(f"{output} holds kits of {before}, not of {address}: choose another --output.")
    elif any(output.iterdir()):
        raise InputError(f"{output} is not empty and holds no kits: choose another --output.")
    for site, seed in sites.seeds.items():
        kit = output / site
        if (kit / "local" / KIT).is_file() and (had := read_kit(kit)["seed"]) != seed:
            raise InputError(
                f"{kit} has the seed {had}, not {seed}: write {had} for {site} again, or make new kits for all in "
                "another --output."
            )
    wanted = [SERVER, ADMIN, *sorted(sites.seeds)]
    missing = [party for party in wanted if not (output / party / "local").is_dir()]
    if missing:
        write_json(record, address)
        made = _provision(sites, output / AUTHORITY)
        for party in missing:
            name = {SERVER: sites.host, ADMIN: _login(sites)}.get(party, party)
            unfinished = output / f".{party}.partial"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(made / name, unfinished)
            _harden(unfinished, party)
            write_kit(unfinished, party, sites)
            unfinished.rename(output / party)
        shutil.rmtree(made.parent.parent / sites.name / made.name)
    for party in (SERVER, ADMIN):
        write_kit(output / party, party, sites)
    return [output / party for party in missing]


def _login(sites: Sites) -> str:
    return f"admin@{sites.name.lower()}.org"  # NVFlare wants an e-mail address; no mail is ever sent


def _provision(sites: Sites, folder: Path) -> Path:
    """Let NVFlare make kits for all, and return their folder. The authority of an earlier call is used again."""
    folder.mkdir(mode=0o700, exist_ok=True)
    people: list[dict[str, Any]] = [
        {
            **{"name": sites.host, "type": "server", "org": "coordinator", "host_names": [sites.host]},
            **{"fed_learn_port": sites.port, "admin_port": sites.admin_port},
        },
        {"name": _login(sites), "type": "admin", "org": "coordinator", "role": "project_admin"},
        *({"name": site, "type": "client", "org": site.replace("-", "_")} for site in sorted(sites.seeds)),
    ]
    project = {
        **{"api_version": 3, "name": sites.name, "description": "GloResNet", "participants": people},
        "builders": [{"path": f"nvflare.lighter.impl.{path}", "args": BUILDERS[path]} for path in BUILDERS],
    }
    before = os.umask(0o077)
    try:
        context = Provisioner(str(folder), prepare_builders(project)).provision(
            prepare_project(project), logger=_Quiet()
        )
    finally:
        os.umask(before)
    if context.get("__build_error__") or context.get("build_error"):
        raise InputError(f"NVFlare could not make the kits in {folder}.")
    return Path(context.get_result_location())


class _Quiet:
    """Takes what NVFlare reports while it makes kits."""

    def info(self, *message: object) -> None: ...

    debug = warning = error = info


def _harden(kit: Path, party: str) -> None:
    """Replace NVFlare's default settings by strict ones, and let only the owner read the kit."""
    local = kit / "local"
    if party != ADMIN:
        resources = json.loads((local / "resources.json.default").read_text(encoding="utf-8"))
        resources["class_list_enforcement_mode"] = "enforce"
        resources["class_allow_list"] = [CLASSES[SERVER if party == SERVER else "site"]]
        # the parts that carry logs from hospitals to the server
        parts = {part["id"]: part for part in resources["components"]}
        for logs in ("site_log_streamer", "log_receiver"):
            parts.pop(logs, None)
        resources["components"] = list(parts.values())
        if party == SERVER:
            resources["servers"][0]["heart_beat_timeout"] = 120  # seconds until a site counts as gone
            parts["job_scheduler"]["args"]["max_jobs"] = 1  # two jobs would train in the same folders
        else:
            resources["allow_log_streaming"] = False
        write_json(local / "resources.json", resources)
        rights = {"format_version": "1.0", "permissions": {"project_admin": RIGHTS}}
        write_json(local / "authorization.json", rights)
        logs = json.loads((local / "log_config.json.default").read_text(encoding="utf-8"))
        logs["handlers"]["consoleHandler"]["level"] = "CRITICAL"  # the file has all
        write_json(local / "log_config.json", logs)
        for name in ("resources.json.default", "authorization.json.default", "log_config.json.default"):
            (local / name).unlink()
    for path in [kit, *kit.rglob("*")]:
        path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
