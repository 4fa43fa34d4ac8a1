"""The engines on Redis and Postgres, with the data of BullMQ: its queues and its scripts."""

from offload.jobs._bullmq.choice import new_engine

__all__ = ["new_engine"]
