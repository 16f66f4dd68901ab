"""Notice that a file has changed without reading it."""

from __future__ import annotations

import os


def file_state(path: str | os.PathLike[str] | None) -> list[str | int] | None:
    """What identifies the content of a file: where it is, its inode, its size and when it last changed.

    Size and modification time are not enough: `cp -p`, `rsync -t` and archives replace a file and set an old
    modification time. No program can set the time of the change (ctime).

    Args:
        path: a file; a link is followed. None gives None.
    """
    if path is None:
        return None
    path = os.path.realpath(path)
    try:
        state = os.stat(path)
    except OSError:
        return [path]
    return [path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
