"""manage.py award 42 PLAYER 150: send a level-up and wait for its outcome."""

from django.core.management.base import BaseCommand, CommandError

from levelq import LevelqError
from levelq.django import producer


class Command(BaseCommand):
    help = "Send a level-up and wait for its outcome."

    def add_arguments(self, parser):
        parser.add_argument("user_id", type=int)
        parser.add_argument("specialization")
        parser.add_argument("xp", type=int)

    def handle(self, *, user_id, specialization, xp, **options):
        try:
            outcome = producer().level_up(user_id, specialization, xp, reason="award").result(timeout=10)
        except LevelqError as error:
            raise CommandError(str(error)) from error
        if outcome.status == "rejected":
            raise CommandError(outcome.message)
        self.stdout.write(f"level {outcome.from_level} -> {outcome.to_level}")
