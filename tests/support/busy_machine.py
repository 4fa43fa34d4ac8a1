"""What a pool says of a machine that is busy with other tests is no result of a test."""

import logging

__all__ = ["BUSY_MACHINE", "is_about_the_test", "lines_about_the_test"]

# In each text about workers that get no CPU time.
BUSY_MACHINE = "next to no CPU time"


def is_about_the_test(record: logging.LogRecord) -> bool:
    """Return whether a record tells of more than other processes that are busy."""
    return BUSY_MACHINE not in record.getMessage()


def lines_about_the_test(text: str) -> str:
    """Return what a program has printed without the lines that tell of other busy processes."""
    return "".join(line for line in text.splitlines(keepends=True) if BUSY_MACHINE not in line)
