"""The shell of a pool: calls on their way from an event loop to a worker and back."""
