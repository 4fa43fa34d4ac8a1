"""A small server that shows what `offload` is for: heavy requests beside a fast one.

`python -m demo_server` starts it; `uvicorn demo_server.app:app` works too.
"""
