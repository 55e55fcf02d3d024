"""One run: its workspace, its folder on disk, evaluation and leak guard, pieces of a batch, processes."""
