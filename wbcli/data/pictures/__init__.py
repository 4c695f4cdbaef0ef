"""Pictures on disk: found, decoded, by processes."""
