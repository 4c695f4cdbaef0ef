"""One process at a time: a lock on a folder, which dies with the process that holds it.

The kernel keeps the lock: what a killed process leaves behind is a file that locks nothing. The
processes that decode pictures do not inherit it.
"""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

NAME = ".lock"


class Busy(RuntimeError):
    """Another process works in the folder."""


@contextmanager
def hold(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of `folder`, which is made if need be, while the block runs.

    Args:
        what: what the folder is called in a message.

    Raises:
        Busy: with the host, the process and the start time of the owner.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _acquire(folder / NAME, what) as file:
        file.truncate(0)
        json.dump({"host": platform.node(), "process": os.getpid(), "started": time.time()}, file)
        file.flush()
        try:
            yield
        finally:
            (folder / NAME).unlink(missing_ok=True)


def _acquire(path: Path, what: str) -> IO[str]:
    while True:
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
            file.close()  # its owner has just deleted it
        except BlockingIOError:
            with file:
                raise Busy(
                    f"{what} is in use by {_owner(file)}: wait until it has ended, or stop it"
                ) from None
        except OSError as error:
            with file:
                reason = f"{error.strerror} (its file system has no locks; --runs-dir elsewhere)"
                raise OSError(error.errno, reason, str(path)) from error


def _owner(file: IO[str]) -> str:
    file.seek(0)
    try:
        owner = json.load(file)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["started"]))
        return f"process {owner['process']} on {owner['host']} since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):  # it has just begun
        return "another process"
