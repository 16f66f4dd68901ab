"""app.py in a process that can reach this machine only. It prints every other host that it asks for, and stays without.

A public address is never contacted: not even the names are looked up.
"""

import ipaddress
import runpy
import socket
import sys
from pathlib import Path

ASKED = "asked for another host:"
APP = Path(__file__).parent.parent.parent / "app.py"
look_up, connect = socket.getaddrinfo, socket.socket.connect


def refuse_others(host) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    try:
        own = name in (None, "", "localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        own = False
    if not own:
        print(ASKED, name, file=sys.stderr, flush=True)
        raise OSError(f"{ASKED} {name}")


def getaddrinfo(host, *arguments, **options):
    refuse_others(host)
    return look_up(host, *arguments, **options)


def guarded_connect(self, address):
    if self.family != socket.AF_UNIX:
        refuse_others(address[0])
    return connect(self, address)


if __name__ == "__main__":
    socket.getaddrinfo, socket.socket.connect = getaddrinfo, guarded_connect
    sys.path[0] = str(APP.parent)
    runpy.run_path(str(APP), run_name="__main__")
