"""Job queues that benchmarks/jobs.py compares: for each a module with its jobs and its producer.

A module has `opened()`, a context manager that gives a `Producer`, and what its worker program
runs. All run the same function, `benchmarks.queues.marks.mark`. Modules of other packages are run
by the Python of benchmarks/queues/.venv, where `offload` is not, so they import nothing of it:

    python -m venv benchmarks/queues/.venv
    benchmarks/queues/.venv/bin/pip install -r benchmarks/queues/requirements.txt
"""
