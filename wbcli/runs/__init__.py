"""Run folders, and one process at a time in each."""
