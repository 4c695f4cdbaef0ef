"""Files that are whole or not there, and readers that trust nobody."""
