"""Flask and SQLAlchemy: wait for an outcome, queue and go on, or send with your own transaction by the outbox.

levelq up                  # prints two export lines: paste them into each new terminal
levelq worker              # in a second terminal
flask --app flask_app run  # in a third, in this folder
curl -X POST localhost:5000/players/42/sessions -d xp=1200
"""

import os
from uuid import UUID

from flask import Flask, request, url_for
from sqlalchemy import BigInteger, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from levelq import (
    InvalidCommand,
    LevelUp,
    Outbox,
    OutcomeTimeout,
    OutcomeUnknown,
    Producer,
    QueueFull,
    QueueUnavailable,
)

app = Flask(__name__)
producer = Producer()  # one per process: threads share it, and it connects at the first send, after a fork
engine = create_engine(os.environ["LEVELQ_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))


class Base(DeclarativeBase):
    pass


class Match(Base):
    __tablename__ = "matches"
    id: Mapped[int] = mapped_column(primary_key=True)
    winner: Mapped[int] = mapped_column(BigInteger)


Base.metadata.create_all(engine)


@app.post("/players/<int:user_id>/sessions")
def finish_session(user_id: int):
    handle = producer.level_up(user_id, "PLAYER", int(request.form["xp"]), sessions_completed=1)
    outcome = handle.result(timeout=10)
    if outcome.status == "rejected":
        return {"error": outcome.message}, 409
    return {"from_level": outcome.from_level, "to_level": outcome.to_level}


@app.post("/players/<int:user_id>/training")
def finish_training(user_id: int):
    handle = producer.level_up(user_id, "PLAYER", 20, reason="training")
    return {"status_url": url_for("command_status", user_id=user_id, command_id=handle.command_id, _external=True)}, 202


@app.post("/matches/<int:match_id>")
def finish_match(match_id: int):
    winner = int(request.form["winner"])
    with Session(engine) as session:
        session.add(Match(id=match_id, winner=winner))
        handle = Outbox(session).send(LevelUp(user_id=winner, specialization="PLAYER", xp_gained=150))
        session.commit()  # the match and the level-up, or neither
    return {"status_url": url_for("command_status", user_id=winner, command_id=handle.command_id, _external=True)}, 202


@app.get("/players/<int:user_id>/commands/<uuid:command_id>")
def command_status(user_id: int, command_id: UUID):
    try:
        outcome = producer.outcome(command_id, user_id, "PLAYER")
    except OutcomeUnknown:
        return {"error": "no such command"}, 404
    if outcome is None:
        return {"status": "queued"}
    return {"status": outcome.status, "message": outcome.message, "to_level": outcome.to_level}


@app.errorhandler(InvalidCommand)
def invalid(error: InvalidCommand):
    return {"error": str(error)}, 422


@app.errorhandler(QueueFull)
@app.errorhandler(QueueUnavailable)
def unavailable(error: Exception):
    return {"error": "try again in a moment"}, 503


@app.errorhandler(OutcomeTimeout)
def queued(error: OutcomeTimeout):
    return {"error": "queued, and not decided yet"}, 202
