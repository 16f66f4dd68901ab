"""A process that imports modules once and then forks into one program after another: `forking.py SOCKET MODULE ...`

It listens on an inherited socket until its standard input is closed. A request is a line of JSON: the program's
arguments as Python takes them (`FILE ...`, `-m MODULE ...`, `-c CODE ...`), its folder, its environment, and the files
for what it says. The answers are the program's process number and, when it has ended, its exit status. `programs.py`
asks.
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
    """The request, in a new process for each; the process that listens never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none of its children leaves a zombie
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
    """Run a program as `python ARGUMENTS` would, ending as it ends."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which TMPDIR sets
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
    gc.freeze()  # what is imported stays in memory that is shared, and is not taken apart at the end of each program
    become(**next_program(socket.socket(fileno=int(number))))
