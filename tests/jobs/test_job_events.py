"""Jobs that are followed over HTTP, on a real server."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

# Of a server on a busy machine; a job that nobody runs would keep it for ever.
PATIENCE = 60.0


def test_server_that_is_told_to_end_does_not_wait_for_the_job(tmp_path):
    """Who follows a job keeps no server from ending: the stream ends before the job does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "tests.support.apps.jobs_app:app", "--port", "0"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OFFLOAD_JOBS": f"sqlite:///{tmp_path}/jobs.db"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        with httpx.Client(base_url=found[0], timeout=PATIENCE) as http:
            url = http.post("/make").json()["url"]
            with http.stream("GET", f"{url}/events") as followed:
                lines = followed.iter_lines()
                assert "event: waiting" in lines
                process.send_signal(signal.SIGTERM)
                assert "event: completed" not in list(lines)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode in (0, -signal.SIGTERM)
