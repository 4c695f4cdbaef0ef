"""Data sets: names, lists, pictures, batches on a device."""
