"""A project of Django's with tasks."""
