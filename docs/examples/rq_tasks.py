"""RQ: a task of your own that levels a player up, beside the workers of levelq.

levelq up                                  # prints two export lines: paste them into each new terminal
levelq worker                              # in a second terminal
rq worker --url $LEVELQ_REDIS_URL matches  # in a third, in this folder
python rq_tasks.py 991 42                  # in a fourth, there, too
"""

import os
import sys

from redis import Redis
from rq import Queue, Retry

from levelq import Producer

producer = Producer()  # RQ forks for each task; a child process connects at its first send


def match_won(match_id: int, user_id: int) -> int | None:
    key = f"match-{match_id}:player-{user_id}"  # the same at each run: it counts once
    handle = producer.level_up(user_id, "PLAYER", 150, idempotency_key=key, reason=f"won match {match_id}")
    return handle.result(timeout=10).to_level


if __name__ == "__main__":
    match_id, user_id = map(int, sys.argv[1:])
    queue = Queue("matches", connection=Redis.from_url(os.environ["LEVELQ_REDIS_URL"]))
    queue.enqueue("rq_tasks.match_won", match_id, user_id, retry=Retry(max=3, interval=[1, 10, 60]))
