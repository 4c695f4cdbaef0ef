"""Settings of a run: recipes, resolving, range checks."""
