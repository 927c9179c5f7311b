"""A reading that viewers share."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from levelq.console.cached import Cached

LONG = 60.0


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


class Server:
    """Counts readings; each waits until it is let go."""

    def __init__(self) -> None:
        self.readings = 0
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def read(self) -> int:
        self.readings += 1
        number = self.readings
        self.begun.release()
        assert self.go_on.acquire(timeout=30)
        return number


def test_viewers_at_the_same_time_share_a_reading(executor: ThreadPoolExecutor) -> None:
    server = Server()
    cached = Cached(server.read, executor, seconds=LONG, most_seconds=LONG)
    with ThreadPoolExecutor(4) as viewers:
        found = [viewers.submit(cached.get) for _ in range(4)]
        assert server.begun.acquire(timeout=30)
        server.go_on.release()
        assert [one.result(30) for one in found] == [1] * 4
    assert cached.get() == 1 == server.readings


def test_last_reading_serves_until_the_new_one_is_there(executor: ThreadPoolExecutor) -> None:
    server = Server()
    cached = Cached(server.read, executor, seconds=0, most_seconds=LONG)
    server.go_on.release()
    assert cached.get() == 1
    assert cached.get() == 1  # and the next one is begun
    assert server.begun.acquire(timeout=30) and server.begun.acquire(timeout=30)
    assert cached.get() == 1 and server.readings == 2
    server.go_on.release()
    executor.submit(int).result(30)
    while cached.get() == 1:  # its reader is about to keep it
        server.go_on.release()
    assert cached.get() >= 2
    server.go_on.release(10)


def test_old_reading_does_not_serve(executor: ThreadPoolExecutor) -> None:
    server = Server()
    cached = Cached(server.read, executor, seconds=0, most_seconds=0)
    server.go_on.release(2)
    assert (cached.get(), cached.get()) == (1, 2)


def test_reading_that_began_before_a_change_is_not_kept(executor: ThreadPoolExecutor) -> None:
    server = Server()
    cached = Cached(server.read, executor, seconds=LONG, most_seconds=LONG)
    with ThreadPoolExecutor(1) as viewer:
        before = viewer.submit(cached.get)
        assert server.begun.acquire(timeout=30)
        cached.forget()
        server.go_on.release(2)
        assert before.result(30) in (1, 2)
    assert cached.get() == 2


def test_failure_is_raised_and_the_next_one_reads_again(executor: ThreadPoolExecutor) -> None:
    answers = [7]

    def read() -> int:
        if answers:
            return answers.pop()
        raise ValueError("away")

    cached = Cached(read, executor, seconds=LONG, most_seconds=LONG)
    assert cached.get() == 7
    cached.forget()
    with pytest.raises(ValueError, match="away"):
        cached.get()
    answers.append(8)
    assert cached.get() == 8
