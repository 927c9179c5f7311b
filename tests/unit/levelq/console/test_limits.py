"""How often something may be done."""

from levelq.console.access.limits import MOST_KEYS, Limit, address_key
from tests.unit.levelq.console.clock import Clock


def test_as_many_as_allowed_go_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    limit = Limit(3, 30.0, clock)
    for _ in range(3):
        assert limit.wait("a") == 0
        limit.use("a")
    assert limit.wait("a") == 10
    clock.now += 9
    assert limit.wait("a") == 1
    clock.now += 1
    assert limit.wait("a") == 0
    limit.use("a")
    assert limit.wait("a") == 10
    clock.now += 1_000
    for _ in range(3):
        assert limit.wait("a") == 0
        limit.use("a")
    assert limit.wait("a") == 10


def test_one_key_does_not_use_up_what_another_may() -> None:
    limit = Limit(1, 30.0, Clock())
    limit.use("a")
    assert limit.wait("a") > 0 and limit.wait("b") == 0


def test_memory_is_bounded_and_the_key_used_last_is_kept() -> None:
    limit = Limit(1, 30.0, Clock())
    for number in range(MOST_KEYS + 100):
        limit.use(str(number))
    assert len(limit._full_until) == MOST_KEYS
    assert limit.wait(str(MOST_KEYS + 99)) > 0


def test_addresses_that_one_host_may_have_are_one_key() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:2") != address_key("2001:db8:0:1::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1") != address_key("10.0.0.2")
    assert address_key("fe80::1%eth0") == address_key("fe80::2")
    assert len(address_key("x" * 5_000)) == 64
