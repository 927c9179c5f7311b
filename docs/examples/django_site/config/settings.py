"""The settings of a small site. What levelq needs is marked."""

import os
from urllib.parse import parse_qs, urlsplit

SECRET_KEY = "for an example on one machine"
DEBUG = True
ROOT_URLCONF = "config.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "levelq.django",  # levelq: its tables by `manage.py migrate`, checks, and `manage.py levelq`
    "game",
]

# The database that `levelq up` prints. A site of your own has its own lines here, and levelq reads them.
_url = urlsplit(os.environ["LEVELQ_DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.removeprefix("/"),
        "USER": _url.username or "",
        "PASSWORD": _url.password or "",
        "HOST": parse_qs(_url.query).get("host", [_url.hostname or ""])[0],
        "PORT": _url.port or "",
    }
}

# levelq: every setting by its name without LEVELQ_. Those that are not here come from the environment.
LEVELQ = {"REDIS_URL": os.environ["LEVELQ_REDIS_URL"]}
