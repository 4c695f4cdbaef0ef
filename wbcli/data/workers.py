"""Processes that decode pictures into shared memory, in pieces, in order.

The memory is a ring of slots that is mapped once: no page is touched for the first time while
an epoch goes on, which on many machines costs more than copying the pictures.

Legend: B batch, S side of the crop.
"""

import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import numpy as np
import torch
from torch import Tensor

from wbcli.data import pictures

PIECE = 16  # pictures that a process decodes at a time
PATIENCE = 5.0  # seconds after which an idle process looks whether its parent lives

Piece = tuple[int, int, np.ndarray]  # seed, epoch, index [≤ PIECE]
Decode = Callable[[int, int, int], np.ndarray]


class Workers:
    """`decode` over pieces, by as many processes as `pictures.workers_to_use` says.

    With none of them it decodes in this process. They start when first needed, and end with
    this object or with its process, however that ends.
    """

    def __init__(self, decode: Decode, shape: tuple[int, ...], batch_size: int):
        self.decode, self.shape = decode, shape
        self.count = pictures.workers_to_use()
        self.num_slots = max(1, self.count) + max(2 * self.count, 2 * -(-batch_size // PIECE))
        self.slots = np.empty(0, dtype=np.uint8)
        self.pipes: list[Connection] = []
        self.stop: Callable[[], None] | None = None

    def run(self, pieces: list[Piece]) -> Iterator[Tensor]:
        """uint8 [≤ PIECE, *shape] of each piece in order; each is gone when the next is asked for.

        Raises:
            BrokenPicture, OSError: what `decode` raised, in its turn.
            RuntimeError: a process was killed.
        """
        if not self.slots.size:
            self._start()
        finished = False
        try:
            yield from self._run(pieces) if self.pipes else self._run_here(pieces)
            finished = True
        finally:
            if not finished:  # an error, Ctrl-C, or nobody wants the rest
                self._end()

    def _run_here(self, pieces: list[Piece]) -> Iterator[Tensor]:
        for piece in pieces:
            _decode(self.decode, piece, self.slots[0])
            yield torch.from_numpy(self.slots[0, : len(piece[2])])

    def _run(self, pieces: list[Piece]) -> Iterator[Tensor]:
        free, sent = list(range(self.num_slots)), 0
        slot_of: dict[int, int] = {}  # piece → slot, of what was sent
        waiting = dict.fromkeys(self.pipes, 0)  # pieces that each process has before it
        done: dict[int, Exception | None] = {}
        for number, piece in enumerate(pieces):
            while free and sent < len(pieces):
                slot_of[sent] = free.pop()
                pipe = min(waiting, key=waiting.__getitem__)
                _send(pipe, (sent, slot_of[sent], pieces[sent]))
                waiting[pipe] += 1
                sent += 1
            while number not in done:
                for pipe in wait(self.pipes):
                    which, error = _receive(pipe)
                    waiting[pipe] -= 1
                    done[which] = error
            if error := done.pop(number):
                raise error
            slot = slot_of.pop(number)
            yield torch.from_numpy(self.slots[slot, : len(piece[2])])
            free.append(slot)

    def _start(self) -> None:
        shape = (self.num_slots if self.count else 1, PIECE, *self.shape)
        memory = mmap.mmap(-1, int(np.prod(shape)))  # not in /dev/shm, which may be small
        self.slots = np.frombuffer(memory, dtype=np.uint8).reshape(shape)
        context, processes = get_context("fork"), []
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, self.decode, self.slots, os.getpid()), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            self.pipes.append(ours)
        self.stop = weakref.finalize(self, _stop, processes, list(self.pipes))

    def _end(self) -> None:
        self.stop()
        self.pipes, self.slots = [], np.empty(0, dtype=np.uint8)


def _decode(decode: Decode, piece: Piece, slot: np.ndarray) -> None:
    seed, epoch, index = piece
    for place, i in enumerate(index.tolist()):
        slot[place] = decode(seed, epoch, i)


def _work(pipe: Connection, decode: Decode, slots: np.ndarray, parent: int) -> None:
    """The life of a process: decode what comes, until nobody is there who sends."""
    pictures.leave_signals_to_the_parent()
    torch.set_num_threads(1)
    while os.getppid() == parent:
        if not pipe.poll(PATIENCE):
            continue
        number, slot, piece = pipe.recv()
        error = None
        try:
            _decode(decode, piece, slots[slot])
        except Exception as caught:  # it is the parent's to raise
            error = caught
        pipe.send((number, error))


def _send(pipe: Connection, message: tuple) -> None:
    try:
        pipe.send(message)
    except OSError as error:
        raise RuntimeError(KILLED) from error


def _receive(pipe: Connection) -> tuple[int, Exception | None]:
    try:
        return pipe.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError(KILLED) from error


KILLED = (
    "a process that decodes pictures was killed, perhaps for want of memory: "
    "lower --workers, --batch-size or --image-size"
)


def _stop(processes: list, pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.terminate()
        process.join()
