"""Durable jobs: the same functions, kept in a store and run by worker programs."""
