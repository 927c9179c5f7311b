"""A penalty, a refund, and the end of a season: what takes points and levels away.

levelq up                # prints two export lines: paste them into each new terminal
levelq worker            # in a second terminal
python season_end.py 42  # in a third, in this folder
"""

import sys

from levelq import Producer


def end_season(producer: Producer, user_id: int) -> None:
    producer.level_up(user_id, "PLAYER", 1600, reason="a good season")
    producer.adjust(user_id, "PLAYER", -300, reason="penalty")  # the level stays
    producer.adjust(user_id, "PLAYER", -1200, level="earned", reason="refund")  # the level that the new total earns
    producer.reset(user_id, "PLAYER", reason="season 2026 ended")  # all totals 0, level 1
    last = producer.reset(user_id, "PLAYER", total_xp=500, level=3, reason="season 2027")  # a head start
    outcome = last.result(timeout=10)  # the commands of one user and specialization take effect in order
    print(f"level {outcome.from_level} -> {outcome.to_level}")


if __name__ == "__main__":
    with Producer() as producer:
        end_season(producer, int(sys.argv[1]))
