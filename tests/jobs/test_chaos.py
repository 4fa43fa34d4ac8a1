"""Jobs while their worker programs are killed, stopped and told to end, at random."""

import os

import anyio

from tests.jobs.chaos import LEASE, Chaos
from tests.jobs.chaos_stores import GivenStore

# For a machine that is so busy that a sweep, or a program, comes late.
_SLACK = 3.0


def test_every_job_ends_once_whoever_is_harmed(url, tmp_path):
    """No job is lost, each ends once, and runs twice only where its program was harmed."""
    seed = int.from_bytes(os.urandom(4))
    report = anyio.run(Chaos(GivenStore(url), tmp_path / "lines", seed).run, 200, 12.0)
    assert report.faults == [], f"seed {seed}: {report}"
    assert report.jobs == 201
    assert report.harms
    # Lapsed within lease + 1 s of the harm.
    assert max(report.delays, default=0.0) < LEASE + 1.0 + _SLACK
