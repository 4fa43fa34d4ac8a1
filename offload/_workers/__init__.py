"""The parent's side of workers: the thread that keeps them, and the two kinds of worker."""
