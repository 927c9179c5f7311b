"""Tests on Django's test database, which `manage.py test` gives levelq's tables, too. They need no worker."""

from django.db import connection
from django.test import TestCase

from .models import Match


class FinishMatch(TestCase):
    def test_match_is_saved_and_its_level_up_is_in_the_outbox(self):
        self.assertEqual(self.client.post("/matches/", {"winner": 42}).status_code, 202)
        self.assertEqual(Match.objects.get().winner, 42)
        with connection.cursor() as cursor:
            cursor.execute("SELECT user_id, specialization FROM levelq_outbox")
            self.assertEqual(cursor.fetchall(), [(42, "PLAYER")])
