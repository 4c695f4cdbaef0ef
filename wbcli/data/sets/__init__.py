"""Each data set: where its files are and how they are read."""
