"""The pure room: every decision of a pool, with no I/O, no clock, no process and no thread."""
