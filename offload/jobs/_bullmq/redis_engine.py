"""Jobs in Redis."""

from __future__ import annotations

from offload.jobs._bullmq.client import RedisClient
from offload.jobs._bullmq.engine import BullmqEngine
from offload.jobs._bullmq.events import RedisHub
from offload.jobs._bullmq.location import parse_redis_url
from offload.jobs._bullmq.scripts import texts_of_bullmq
from offload.jobs._bullmq.store import RedisStore

__all__ = ["RedisEngine"]


class RedisEngine(BullmqEngine):
    """Jobs in Redis, 6.2 or later, as BullMQ has them.

    Args:
        url: see `offload.jobs._bullmq.location.parse_redis_url`.

    Raises:
        ImportError: the extra `redis` is not installed.
        ValueError: the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        texts_of_bullmq()
        client = RedisClient(parse_redis_url(url))
        super().__init__(client, RedisStore(client), RedisHub(client))
