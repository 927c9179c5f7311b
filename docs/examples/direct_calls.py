"""Without the queue: the level is up when your own transaction commits. No Redis, no worker; needs levelq[worker].

levelq up               # prints two export lines: paste them into each new terminal
python direct_calls.py  # in a second terminal, in this folder
"""

import asyncio
import os

from sqlalchemy import BigInteger, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from levelq import ProgressLicenseCoupler, level_up_atomic


class Base(DeclarativeBase):
    pass


class Match(Base):
    __tablename__ = "direct_matches"
    id: Mapped[int] = mapped_column(primary_key=True)
    winner: Mapped[int] = mapped_column(BigInteger)


def finish_match(engine: Engine, winner: int) -> None:
    with Session(engine) as session:
        session.add(Match(winner=winner))
        level_up_atomic(session, winner, "PLAYER", 150, raise_on_failure=True)  # commits both, or rolls both back


def finish_tournament(engine: Engine, players: list[int]) -> None:
    with Session(engine) as session, session.begin():
        session.add(Match(winner=players[0]))
        for user_id in sorted(players):
            result = level_up_atomic(session, user_id, "PLAYER", 40)
            if result["success"] is False:  # the others, and your own rows, are committed all the same
                print(f"user {user_id}: {result['error_type']}: {result['message']}")


async def certify_coach(engine: AsyncEngine, user_id: int) -> None:
    async with AsyncSession(engine) as session:
        await session.run_sync(level_up_atomic, user_id, "COACH", 40)
        await session.run_sync(lambda s: ProgressLicenseCoupler(s).update_level_atomic(user_id, "COACH", 3))


if __name__ == "__main__":
    engine = create_engine(os.environ["LEVELQ_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1))
    Base.metadata.create_all(engine)
    levels = create_engine(engine.url.set(drivername="postgresql+psycopg"), pool_size=2)
    finish_match(levels, winner=42)
    finish_tournament(levels, players=[42, 43])
    asyncio.run(certify_coach(create_async_engine(levels.url), user_id=42))
