"""A penalty, a refund, and the end of a season: what takes points and levels away.

levelq up                # prints two export lines: paste them into each new terminal
levelq worker            # in a second terminal
python season_end.py 42  # in a third, in this folder
"""

import sys

from levelq import Handle, Producer


def corrections(producer: Producer, user_id: int) -> list[Handle]:
    return [
        producer.level_up(user_id, "PLAYER", 1600, reason="a good season"),
        # The level stays.
        producer.adjust(user_id, "PLAYER", xp_change=-300, reason="penalty"),
        # The level becomes what the new total earns.
        producer.adjust(user_id, "PLAYER", xp_change=-1200, level="earned", reason="refund"),
        # All totals 0, level 1.
        producer.reset(user_id, "PLAYER", reason="season 2026 ended"),
        # A head start.
        producer.reset(user_id, "PLAYER", total_xp=500, level=3, reason="season 2027"),
    ]


if __name__ == "__main__":
    with Producer() as producer:
        for handle in corrections(producer, int(sys.argv[1])):
            outcome = handle.result(timeout=10)
            print(f"level {outcome.from_level} -> {outcome.to_level}: {outcome.message}")
