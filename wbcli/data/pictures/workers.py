"""Processes that decode the pictures of batches into shared memory, in order.

The memory is a ring of batches that is mapped once: no page is touched for the first time while
an epoch goes on, and the pictures are where the batch wants them.

Legend: B batch, S side of the crop.
"""

import mmap
import os
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wbcli.data.pictures import decoding

PIECE = 8  # pictures that a process decodes at a time
AHEAD = 6  # pieces that are decoded ahead for each process, at least
KEYS_AHEAD = 2  # of `by_workers`, for each process
PATIENCE = 5.0  # seconds after which an idle process looks whether its parent lives
GRACE = 0.5  # seconds: a SIGTERM to all of a job's processes reaches this one, too, and comes first
KILLED = (
    "a process that decodes pictures was killed, perhaps for want of memory: "
    "lower --workers, --batch-size or --image-size"
)


class Killed(RuntimeError):
    """A process that decodes pictures was killed."""


Decode = Callable[[int, int, int], np.ndarray]  # seed, epoch, index → uint8 [S, S, 3]


class Workers:
    """`decode` over batches, by as many processes as `pictures.workers_to_use` says.

    With none of them it decodes in this process. They start when first needed, and end with
    this object or with its process, however that ends.

    Args:
        shape: of a picture.
        batch_size: of the largest batch.
    """

    def __init__(self, decode: Decode, shape: tuple[int, ...], batch_size: int):
        self.decode = decode
        self.count = decoding.workers_to_use()
        ahead = max(1, -(-AHEAD * self.count * PIECE // batch_size))
        self.shape = (1 + ahead if self.count else 1, batch_size, *shape)
        self.slots = np.empty(0, dtype=np.uint8)  # [slots, B, S, S, 3]
        self.pipes: list[Connection] = []
        self.processes: list = []
        self.stop: Callable[[], None] | None = None

    def run(self, seed: int, epoch: int, batches: list[np.ndarray]) -> Iterator[Tensor]:
        """uint8 [B, S, S, 3] of each batch in order; each is gone when the next is asked for.

        Args:
            batches: int64 [B] each, the pictures.

        Raises:
            BrokenPicture, OSError: what `decode` raised, in its turn.
            Killed: a process was killed.
        """
        if not self.slots.size:
            self._start()
        finished = False
        try:
            for slot, index in self._filled(seed, epoch, batches):
                yield torch.from_numpy(self.slots[slot, : len(index)])
            finished = True
        finally:
            if not finished:  # an error, Ctrl-C, or nobody wants the rest
                self._end()

    def _filled(
        self, seed: int, epoch: int, batches: list[np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The slot of each batch, once it is full; free again when the next is asked for."""
        waiting = dict.fromkeys(self.pipes, 0)  # pieces that each process has before it
        missing: dict[int, int] = {}  # batch → pieces that are not yet decoded
        broken: dict[int, Exception] = {}
        free, sent = list(range(len(self.slots))), 0
        slot_of: dict[int, int] = {}
        for number, index in enumerate(batches):
            while free and sent < len(batches):
                slot_of[sent] = free.pop()
                pieces = _pieces(batches[sent])
                missing[sent] = len(pieces)
                for start, piece in pieces:
                    task = (slot_of[sent], start, seed, epoch, piece)
                    if not self.pipes:
                        _decode(self.decode, self.slots, task)
                        missing[sent] -= 1
                        continue
                    pipe = min(waiting, key=waiting.__getitem__)
                    _send(pipe, (sent, task))
                    waiting[pipe] += 1
                sent += 1
            while missing[number]:
                for pipe in wait(self.pipes):
                    which, _, error = _receive(pipe)
                    waiting[pipe] -= 1
                    missing[which] -= 1
                    if error:
                        broken.setdefault(which, error)
            if number in broken:
                raise broken[number]
            yield slot_of[number], index
            free.append(slot_of.pop(number))

    def _start(self) -> None:
        memory = mmap.mmap(-1, int(np.prod(self.shape)))  # not in /dev/shm, which may be small
        self.slots = np.frombuffer(memory, dtype=np.uint8).reshape(self.shape)
        answer = partial(_decode, self.decode, self.slots)
        self.processes, self.pipes = _start(self.count, answer)
        self.stop = weakref.finalize(self, _stop, self.processes, self.pipes)

    def _end(self) -> None:
        self.stop()
        self.pipes, self.processes, self.slots = [], [], np.empty(0, dtype=np.uint8)


def by_workers(dataset: Dataset, keys: list) -> Iterator:
    """dataset[key] for every key, in their order, made by worker processes.

    Keys are small: sending one never waits for a process that waits to answer.

    Raises:
        Killed: a process was killed.
    """
    count = min(decoding.workers_to_use(), len(keys))
    if not count:
        yield from (dataset[key] for key in keys)
        return
    processes, pipes = _start(count, dataset.__getitem__)
    ahead = KEYS_AHEAD * count
    try:
        for number in range(len(keys) + ahead):
            if number >= ahead:  # the processes take turns, and so do their answers
                _, result, error = _receive(pipes[number % count])
                if error:
                    raise error
            if number < len(keys):
                _send(pipes[number % count], (number, keys[number]))
            if number >= ahead:
                yield result
    finally:
        _stop(processes, pipes)


def _start(count: int, answer: Callable[[Any], Any]) -> tuple[list, list[Connection]]:
    """Processes that answer (number, task) with (number, answer(task), None or an error)."""
    context, processes, pipes = get_context("fork"), [], []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, answer, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    return processes, pipes


def _pieces(index: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(start, index[start : start + PIECE]) for start in range(0, len(index), PIECE)]


def _decode(decode: Decode, slots: np.ndarray, task: tuple) -> None:
    slot, start, seed, epoch, piece = task
    for place, i in enumerate(piece.tolist(), start=start):
        slots[slot, place] = decode(seed, epoch, i)


def _work(pipe: Connection, answer: Callable[[Any], Any], parent: int) -> None:
    """The life of a process: answer what comes, until nobody is there who sends."""
    decoding.leave_signals_to_the_parent()
    torch.set_num_threads(1)
    while os.getppid() == parent:
        if not pipe.poll(PATIENCE):
            continue
        number, task = pipe.recv()
        result = error = None
        try:
            result = answer(task)
        except Exception as caught:  # it is the parent's to raise
            error = caught
        pipe.send((number, result, error))


def _send(pipe: Connection, message: tuple) -> None:
    try:
        pipe.send(message)
    except OSError as error:
        time.sleep(GRACE)
        raise Killed(KILLED) from error


def _receive(pipe: Connection) -> tuple[int, Any, Exception | None]:
    try:
        return pipe.recv()
    except (EOFError, OSError) as error:
        time.sleep(GRACE)
        raise Killed(KILLED) from error


def _stop(processes: list, pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.terminate()
        process.join()
