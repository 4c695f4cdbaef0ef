"""Batches of a split: what trains or is measured, on the device, an epoch at a time."""
