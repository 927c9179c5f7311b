#!/usr/bin/env python
"""A Django site on levelq.django: settings, migrations, the outbox, on_commit, a management command.

levelq up                              # prints two export lines: paste them into each new terminal
python manage.py migrate               # in a second terminal, in this folder: levelq's tables, too
python manage.py levelq worker         # there
python manage.py runserver             # in a third
python manage.py test                  # in a fourth; it makes a database of its own
python manage.py award 42 PLAYER 1200  # there
curl -X POST localhost:8000/matches/ -d winner=42
"""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
execute_from_command_line(sys.argv)
