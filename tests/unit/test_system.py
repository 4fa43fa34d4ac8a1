"""`offload._system`: what this machine and container really have."""

import os

import pytest

from offload import _system
from offload._system import available_cpus, default_max_workers, web_workers

CPUS = 8


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Give the machine eight CPUs, and no web server."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: frozenset(range(CPUS)), raising=False)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    monkeypatch.setattr("sys.argv", ["app.py"])


@pytest.fixture
def tree(tmp_path):
    """Return a function that puts files, texts by path, under a root of our own."""

    def make(files):
        for path, text in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


V2 = {"proc/self/cgroup": "0::/kubepods/pod1/box\n"}
V1 = {"proc/self/cgroup": "5:memory:/docker/box\n3:cpu,cpuacct:/docker/box\n1:name=systemd:/x\n"}

# What the tree holds, and the CPUs that it leaves of eight.
TREES = {
    "no files": ({}, 8.0),
    "v2 quota": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "200000 100000\n"}, 2.0),
    "v2 fraction": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "50000 100000\n"}, 0.5),
    "v2 no limit": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "max 100000\n"}, 8.0),
    "v2 empty": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": ""}, 8.0),
    "v2 nonsense": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "many few\n"}, 8.0),
    "v2 period of zero": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "1000 0\n"}, 8.0),
    "v2 above the machine": (V2 | {"sys/fs/cgroup/kubepods/cpu.max": "9900000 100000\n"}, 8.0),
    "v2 parent is tighter": (
        V2
        | {
            "sys/fs/cgroup/kubepods/pod1/box/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "300000 200000\n",
            "sys/fs/cgroup/kubepods/cpu.max": "max 100000\n",
        },
        1.5,
    ),
    "v2 child is tighter": (
        V2
        | {
            "sys/fs/cgroup/kubepods/pod1/box/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/kubepods/cpu.max": "600000 100000\n",
        },
        1.0,
    ),
    # The host's path, seen from inside: our limit is at the root of what is mounted here.
    "v2 path is not ours": (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
    "v2 namespace": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3.0,
    ),
    "v2 path above the namespace": (
        {"proc/self/cgroup": "0::/../../box\n", "sys/fs/cgroup/box/cpu.max": "300000 100000\n"},
        3.0,
    ),
    "v2 path with a colon": (
        {"proc/self/cgroup": "0::/a:b\n", "sys/fs/cgroup/a:b/cpu.max": "300000 100000\n"},
        3.0,
    ),
    "v1 quota": (
        V1
        | {
            "sys/fs/cgroup/cpu/docker/box/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/docker/box/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1 mounted as cpu,cpuacct": (
        V1
        | {
            "sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1 path is not ours": (
        V1
        | {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "v1 no limit": (
        V1
        | {
            "sys/fs/cgroup/cpu/docker/box/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/docker/box/cpu.cfs_period_us": "100000\n",
        },
        8.0,
    ),
    "v1 no period": (V1 | {"sys/fs/cgroup/cpu/docker/box/cpu.cfs_quota_us": "250000\n"}, 8.0),
    "v1 other controllers only": ({"proc/self/cgroup": "5:cpuset:/box\n"}, 8.0),
    "hybrid": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/box\n0::/box\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
        },
        2.5,
    ),
    "nonsense": ({"proc/self/cgroup": "what\n::\n:\n\n"}, 8.0),
}


class TestAvailableCpus:
    @pytest.mark.parametrize("files,cpus", TREES.values(), ids=TREES)
    def test_tightest_quota_counts(self, tree, files, cpus):
        """The result is the affinity, cut by the smallest quota that applies to us."""
        assert available_cpus(root=tree(files)) == cpus

    def test_affinity_is_less_than_the_machine(self, tree, monkeypatch):
        """CPUs that this process may not use do not count."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
        assert available_cpus(root=tree(TREES["v1 quota"][0])) == 2.0

    @pytest.mark.parametrize("cpus", [4, None])
    def test_system_without_affinity_counts_the_machine(self, tree, monkeypatch, cpus):
        """Where affinity is unknown all CPUs count, and at least one."""
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: cpus)
        assert available_cpus(root=tree({})) == float(cpus or 1)

    def test_unreadable_file_is_no_error(self, tree):
        """A file that is a folder, or no text, is as good as missing."""
        root = tree(V2 | {"sys/fs/cgroup/kubepods/cpu.max/x": ""})
        (root / "sys/fs/cgroup/cpu.max").write_bytes(b"\xff\xfe 100000")
        assert available_cpus(root=root) == 8.0

    def test_this_machine_can_be_read(self):
        """On the machine that runs this test the answer is above zero."""
        assert available_cpus() > 0


UVICORN_MAIN = "/venv/lib/python3.13/site-packages/uvicorn/__main__.py"

# A command line, and the web workers that it starts.
COMMANDS = [
    ("/venv/bin/uvicorn app:app --workers 4", 4),
    ("/venv/bin/uvicorn --workers=4 app:app", 4),
    ("/venv/bin/gunicorn -w 3 app:app", 3),
    ("/venv/bin/gunicorn -w3 app:app", 3),
    ("/venv/bin/gunicorn --workers 3 -k uvicorn.workers.UvicornWorker app:app", 3),
    ("/venv/bin/gunicorn -k uvicorn.workers.UvicornWorker --worker-class x -w 3 app:app", 3),
    (f"{UVICORN_MAIN} app:app --workers 4", 4),
    ("uvicorn.exe app:app --workers 4", 4),
    ("/venv/bin/fastapi run --workers 5 app.py", 5),
    ("/venv/bin/uvicorn app:app", 1),
    ("/venv/bin/uvicorn app:app --workers 0", 1),
    ("/venv/bin/uvicorn app:app --workers many", 1),
    ("/venv/bin/uvicorn app:app --workers", 1),
    (f"/venv/bin/uvicorn app:app --workers {'9' * 5000}", 1),
    # No server: its --workers are something else.
    ("/srv/app.py --workers 4", 1),
    ("/venv/bin/pytest -w 4", 1),
    ("/srv/gunicorn/tool.py --workers 4", 1),
    ("/venv/lib/python3.13/site-packages/tool/__main__.py --workers 4", 1),
]


class TestWebWorkers:
    @pytest.mark.parametrize("command,workers", COMMANDS)
    def test_command_line_of_a_server_tells(self, monkeypatch, command, workers):
        """`--workers` counts in each of its spellings, and only for a program that is a server."""
        monkeypatch.setattr("sys.argv", command.split())
        assert web_workers() == workers

    @pytest.mark.parametrize(
        "value,workers", [("3", 3), (" 3 ", 3), ("0", 1), ("-2", 1), ("", 1), ("auto", 1)]
    )
    def test_environment_tells(self, monkeypatch, value, workers):
        """`WEB_CONCURRENCY` counts where it is a number above zero."""
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        assert web_workers() == workers

    def test_command_line_wins(self, monkeypatch):
        """The variable is the default of the option, as it is for the servers themselves."""
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        monkeypatch.setattr("sys.argv", ["/venv/bin/gunicorn", "app:app"])
        assert web_workers() == 2
        monkeypatch.setattr("sys.argv", ["/venv/bin/gunicorn", "app:app", "-w", "4"])
        assert web_workers() == 4

    @pytest.mark.parametrize("arguments", [[], [""], None])
    def test_interpreter_without_arguments_is_one_worker(self, monkeypatch, arguments):
        """An embedded interpreter may have no `sys.argv` at all."""
        monkeypatch.setattr("sys.argv", arguments)
        assert web_workers() == 1


class TestDefaultMaxWorkers:
    @pytest.mark.parametrize(
        "cpus,web,workers",
        [(8.0, 1, 8), (8.0, 4, 2), (8.0, 3, 2), (2.9, 1, 2), (1.5, 1, 1), (0.5, 1, 1), (2.0, 8, 1)],
    )
    def test_cpus_are_shared_between_web_workers(self, monkeypatch, cpus, web, workers):
        """Each web worker gets its share of the CPUs, rounded down, and never less than one."""
        monkeypatch.setattr(_system, "available_cpus", lambda: cpus)
        monkeypatch.setenv("WEB_CONCURRENCY", str(web))
        assert default_max_workers() == workers
