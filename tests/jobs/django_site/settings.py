"""Settings: the backend is all that it takes. Jobs are where OFFLOAD_JOBS says."""

SECRET_KEY = "only for tests"  # noqa: S105 - of nothing
USE_TZ = True
DEBUG = True  # Django shows its log on the console then.
INSTALLED_APPS = ["django.contrib.contenttypes", "tests.jobs.django_site.shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TASKS = {
    "default": {
        "BACKEND": "offload.django.OffloadBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"max_workers": 1, "max_attempts": 2, "backoff": 0.01},
    }
}
