"""Modules that pools preload in tests of what threads do to a fork."""
