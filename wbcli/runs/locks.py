"""One process at a time: a lock on a folder, which dies with the process that holds it.

The kernel keeps the lock: what a killed process leaves behind is a file that locks nothing. The
processes that decode pictures do not inherit it.
"""

import fcntl
import json
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wbcli.files.storage import saying_what

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
    path = folder / NAME
    with _acquire(path, what) as file:
        owner = {"host": platform.node(), "process": os.getpid(), "started": time.time()}
        try:
            with saying_what(path):
                file.truncate(0)
                file.write(json.dumps(owner).encode())
        except OSError:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()  # if nothing is in it
            raise
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path, what: str) -> BinaryIO:
    while True:
        file = _open(path)
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


def _open(path: Path) -> BinaryIO:
    """For reading and writing; a link or a pipe would lead elsewhere, or nowhere."""
    with saying_what(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is no regular file: delete it")
    return os.fdopen(descriptor, "r+b", buffering=0)


def _owner(file: BinaryIO) -> str:
    file.seek(0)
    try:
        owner = json.loads(file.read())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["started"]))
        return f"process {owner['process']} on {owner['host']} since {since}"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):  # it has just begun
        return "another process"
