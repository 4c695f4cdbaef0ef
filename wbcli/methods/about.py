"""What is known of the methods: one sentence, source, cost, published figures, traps."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A published accuracy, per cent, mean over classes."""

    dataset: str
    imbalance_factor: float | None
    network: str
    epochs: int
    all: float


class About(NamedTuple):
    """What a method is in one sentence with its equation, where it comes from, what it costs
    against plain training, what its authors measured, and what one has to know.
    """

    title: str
    source: str
    cost: str
    published: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
