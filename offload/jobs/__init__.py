"""Durable requests to run functions: what is enqueued survives, and runs in a worker program."""
