"""What a training step minimises: one room a method, and the contract that all of them keep."""

from wbcli.data.batches.batch import Batch
from wbcli.methods.adjustments import adjust
from wbcli.methods.make import make
from wbcli.methods.method import Method

__all__ = ["Batch", "Method", "adjust", "make"]
