"""FastAPI: an endpoint that waits for the outcome, and one that answers 202 with a URL to ask later.

levelq up                # prints two export lines: paste them into each new terminal
levelq worker            # in a second terminal
uvicorn fastapi_app:app  # in a third, in this folder
curl -X POST localhost:8000/players/42/sessions -H 'content-type: application/json' -d '{"xp": 1200}'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from levelq import AsyncProducer, InvalidCommand, OutcomeTimeout, OutcomeUnknown, QueueFull, QueueUnavailable


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with AsyncProducer() as producer:  # reads LEVELQ_REDIS_URL; connects at the first send
        yield {"producer": producer}


app = FastAPI(lifespan=lifespan)


def get_producer(request: Request) -> AsyncProducer:
    producer: AsyncProducer = request.state.producer
    return producer


ProducerDep = Annotated[AsyncProducer, Depends(get_producer)]


class Session(BaseModel):
    xp: int


@app.post("/players/{user_id}/sessions")
async def finish_session(user_id: int, session: Session, producer: ProducerDep) -> dict[str, Any]:
    handle = await producer.level_up(user_id, "PLAYER", session.xp, sessions_completed=1)
    outcome = await handle
    if outcome.status == "rejected":
        raise HTTPException(409, outcome.message)
    return {"from_level": outcome.from_level, "to_level": outcome.to_level}


@app.post("/players/{user_id}/matches", status_code=202)
async def win_match(user_id: int, producer: ProducerDep, request: Request) -> dict[str, str]:
    handle = await producer.level_up(user_id, "PLAYER", 150, reason="match won")
    return {"status_url": str(request.url_for("command_status", user_id=user_id, command_id=handle.command_id))}


@app.get("/players/{user_id}/commands/{command_id}")
async def command_status(user_id: int, command_id: UUID, producer: ProducerDep) -> dict[str, Any]:
    try:
        outcome = await producer.outcome(command_id, user_id, "PLAYER")
    except OutcomeUnknown:
        raise HTTPException(404, "no such command") from None
    if outcome is None:
        return {"status": "queued"}
    return {"status": outcome.status, "message": outcome.message, "to_level": outcome.to_level}


@app.exception_handler(InvalidCommand)
async def invalid(request: Request, error: InvalidCommand) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


@app.exception_handler(QueueFull)
@app.exception_handler(QueueUnavailable)
async def unavailable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "try again in a moment"}, status_code=503)


@app.exception_handler(OutcomeTimeout)
async def queued(request: Request, error: OutcomeTimeout) -> JSONResponse:
    return JSONResponse({"detail": "queued, and not decided yet"}, status_code=202)
