"""A module of context variables that does something with pools when it is imported."""

from contextvars import ContextVar

from offload import Pool


class Silent:
    """An observer that has nothing to do."""

    def submitted(self, _: object) -> None:
        """Do nothing."""

    def ended(self, _: object) -> None:
        """Do nothing."""


end = Pool.observe_all(Silent())
variable: ContextVar[int] = ContextVar("variable")
