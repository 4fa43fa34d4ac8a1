"""A module that configures logging when it is imported, as the main module of a server does."""

import logging
import logging.config
import os

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": os.environ["HOSTILE_LOG"]}
        },
        "root": {"handlers": ["file"], "level": "INFO"},
    }
)


def log(text: str) -> None:
    """Log."""
    logging.getLogger("tests.hostile").warning(text)
