"""Import modules once, then fork one program after another: `forking.py SOCKET MODULE ...`

This process listens on an inherited socket until its standard input is closed. `programs.py` sends it requests, each a
line of JSON: the program's arguments as for Python (`FILE ...`, `-m MODULE ...`, `-c CODE ...`), its working directory
and environment, and the files for its output and errors. It answers with the program's process id and, when the program
has ended, its exit status.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from pathlib import Path


def next_program(listener: socket.socket) -> dict:
    """Wait for requests and fork. Returns each request in a new process; the listening process never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that children leave no zombie processes
    while True:
        if listener not in select.select([listener, sys.stdin], [], [])[0]:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rw") as file:
        request = json.loads(file.readline())
        program = os.fork()
        if program == 0:
            return request
        print(program, file=file, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]), file=file, flush=True)
    os._exit(0)


def become(arguments: list[str], cwd: str, environment: dict[str, str], output: str, errors: str) -> None:
    """Run a program in this process as `python ARGUMENTS` would, with the same end."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # so that TMPDIR is read again
    for number, name in ((0, os.devnull), (1, output), (2, errors)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    paths = list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))
    kind, *rest = arguments
    here = str(Path(kind).resolve().parent) if kind.endswith(".py") else cwd
    sys.path[:1] = [here, *paths]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    number, *modules = sys.argv[1:]
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # imported modules stay in shared memory and are not destroyed at the end of each program
    become(**next_program(socket.socket(fileno=int(number))))
