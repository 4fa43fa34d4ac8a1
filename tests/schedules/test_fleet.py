"""Many schedulers on one engine, while they are killed, stopped and told to end."""

import os

import pytest

from tests.jobs.servers import RedisServer
from tests.schedules.fleet import Fleet


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    """An empty engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
        return
    server = RedisServer(tmp_path)
    server.start()
    yield server.url
    server.stop()


def test_each_fire_comes_once_whoever_is_harmed(url, tmp_path):
    """No fire is lost and none comes twice; in memory, a kill may lose the fire it interrupts."""
    seed = int.from_bytes(os.urandom(4))
    fleet = Fleet(url, tmp_path, 4, seed)
    try:
        report = fleet.run(seconds=8.0, pause=0.7)
    finally:
        fleet.close()

    assert (report.lost, report.twice) == ([], []), f"seed {seed}: {report}"
    assert len(report.lost_in_memory) <= report.harms["kill"], f"seed {seed}: {report}"
    assert report.seconds == 8
