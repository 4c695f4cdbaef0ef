"""Speed and memory against what could be used instead."""
