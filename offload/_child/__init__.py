"""What runs in child processes. Imports next to nothing: its import time is every cold start."""
