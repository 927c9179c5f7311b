"""Celery: a task that levels a player up, and may run twice without a second effect.

levelq up                      # prints two export lines: paste them into each new terminal
levelq worker                  # in a second terminal
celery -A celery_tasks worker  # in a third, in this folder; and there, in a fourth:
python -c 'from celery_tasks import match_won; match_won.delay(991, 42)'
"""

import os

from celery import Celery

from levelq import Producer, QueueFull, QueueUnavailable

app = Celery("celery_tasks", broker=os.environ["LEVELQ_REDIS_URL"].replace("unix://", "redis+socket://", 1))
app.conf.task_acks_late = True  # a task whose worker dies runs again
app.conf.broker_connection_retry_on_startup = True

producer = Producer()  # before Celery forks: it connects at the first send, in each child process


@app.task(ignore_result=True, autoretry_for=(QueueUnavailable, QueueFull), retry_backoff=True, max_retries=10)
def match_won(match_id: int, user_id: int) -> None:
    key = f"match-{match_id}:player-{user_id}"  # the same at each run: it counts once
    producer.level_up(user_id, "PLAYER", 150, idempotency_key=key, reason=f"won match {match_id}")
