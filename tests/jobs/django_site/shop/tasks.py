"""Tasks. Like most, they use models, which exist only where Django is set up."""

from django.contrib.contenttypes.models import ContentType
from django.tasks import task

# It is there to have been imported.
MODEL = ContentType


@task
def total(*numbers, scale=1):
    """Add numbers."""
    return {"total": sum(numbers) * scale}


@task(priority=5, queue_name="mail")
def send_mail(to: "list[str]", subject: str) -> list[str]:
    """Send nothing."""
    return [f"{subject} to {each}" for each in to]


@task(takes_context=True)
def fails_once(context, text):
    """Fail at the first attempt."""
    if context.attempt == 1:
        raise LookupError(f"{text}: the first time")
    return [context.attempt, context.task_result.id]


@task
def fails():
    """Fail."""
    raise ZeroDivisionError("again and again")


@task
def has_no_json():
    """Return what has no JSON."""
    return {1, 2}
