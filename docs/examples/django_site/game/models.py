"""The site's own tables, and one of levelq's to read from."""

from django.db import models


class Match(models.Model):
    winner = models.BigIntegerField()


class Training(models.Model):
    player = models.BigIntegerField()


class Progress(models.Model):
    """Levels and totals. Only levelq writes them: to change them, send a command."""

    student_id = models.BigIntegerField()
    specialization_id = models.TextField()
    current_level = models.IntegerField()
    total_xp = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "specialization_progress"
