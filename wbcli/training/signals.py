"""Ctrl-C, SIGTERM and a terminal that is closed (SIGHUP): the first ends the work where nothing
is half done, a second one at once.

The first raises KeyboardInterrupt, or SystemExit(128 + its number); within a block of `whole`, at
the end of the block.
"""

import os
import signal
import sys
from types import FrameType

_received: int | None = None  # the first signal
_pending = False  # it waits for the end of a block
_depth = 0  # blocks that are open


def install() -> None:
    """Handle them so from here on; one that this process was started to ignore (nohup) stays so."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _on_signal)


class whole:
    """A block that the first signal does not cut short: it is raised at the end of it."""

    def __enter__(self) -> None:
        global _depth
        _depth += 1

    def __exit__(self, *error) -> None:
        global _depth, _pending
        _depth -= 1
        if _pending and not _depth:
            _pending = False
            _raise()


def _on_signal(signum: int, frame: FrameType | None) -> None:
    global _received, _pending
    if _received is not None:
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\n")  # the cursor, which a progress bar hides
        os._exit(128 + signum)
    _received = signum
    if _depth:
        _pending = True
    else:
        _raise()


def _raise() -> None:
    if _received == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + _received)
