"""The process of NVFlare's server or client, started by `parties.py` in a session of its own.

It ends, with the jobs that it has started, as soon as the process that started it has ended.
"""

import contextlib
import os
import runpy
import sys

import psutil

from machine.interruption import end_with

MODULES = {
    "server": ("nvflare.private.fed.app.server.server_train", "fed_server.json", "coordinator"),
    "client": ("nvflare.private.fed.app.client.client_train", "fed_client.json", ""),
}


def main() -> None:
    """`python -m federated.party server|client KIT NAME`"""
    kind, kit, name = sys.argv[1:]
    end_with(os.getppid(), _end_all)
    module, settings, org = MODULES[kind]
    if kind == "client":
        from .limits import limit_client  # late: the server starts without it

        limit_client()
    who = ["org=coordinator"] if kind == "server" else [f"uid={name}", f"org={name.replace('-', '_')}"]
    sys.argv = [module, "-m", kit, "-s", settings, "--set", "secure_train=true", *who, "config_folder=config"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_all() -> None:
    for child in psutil.Process().children(recursive=True):  # a job has a session of its own
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
