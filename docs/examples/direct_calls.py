"""Without the queue: the level is up when your own transaction commits. No Redis, no worker; needs levelq[worker].

levelq up               # prints two export lines: paste them into each new terminal
python direct_calls.py  # in a second terminal, in this folder
"""

import asyncio
import os

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from levelq import ProgressLicenseCoupler, level_up_atomic


class Base(DeclarativeBase):
    pass


class Match(Base):
    __tablename__ = "direct_matches"
    id: Mapped[int] = mapped_column(primary_key=True)


def finish_match(engine: Engine, match_id: int, winner: int) -> None:
    with Session(engine) as session:
        session.merge(Match(id=match_id))
        level_up_atomic(session, winner, "PLAYER", 150, raise_on_failure=True)  # commits both, or rolls both back


def finish_tournament(engine: Engine, match_id: int, players: list[int]) -> None:
    with Session(engine) as session, session.begin():
        session.merge(Match(id=match_id))
        for user_id in sorted(players):
            result = level_up_atomic(session, user_id, "PLAYER", 40)
            if result["success"] is False:  # the others, and your own rows, are committed all the same
                print(f"user {user_id}: {result['error_type']}: {result['message']}")


async def certify_coach(engine: AsyncEngine, user_id: int) -> None:
    async with AsyncSession(engine) as session:
        await session.run_sync(level_up_atomic, user_id, "COACH", 40)
        await session.run_sync(lambda s: ProgressLicenseCoupler(s).update_level_atomic(user_id, "COACH", 3))


def engine_for_levelq(engine: Engine) -> Engine:
    """If your engine is on psycopg2: one more for levelq, on the same database."""
    return create_engine(engine.url.set(drivername="postgresql+psycopg"), pool_size=2)


if __name__ == "__main__":
    url = os.environ["LEVELQ_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1)
    engine = engine_for_levelq(create_engine(url))
    Base.metadata.create_all(engine)
    finish_match(engine, match_id=1, winner=42)
    finish_tournament(engine, match_id=2, players=[42, 43])
    asyncio.run(certify_coach(create_async_engine(engine.url), user_id=42))
