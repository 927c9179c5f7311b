"""Partitions: their names, their keys, and which one a user's lane is in."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core import ConfigurationError
from levelq_core.keys import Keys, Partition
from tests.support.fixtures.keys import KEYS
from tests.support.strategies import specializations, user_ids


@pytest.mark.parametrize(
    ("name", "partition"),
    [
        ("PLAYER", Partition("PLAYER", 1, 0)),
        ("PLAYER:1:0", Partition("PLAYER", 1, 0)),
        ("A_1:12:4095", Partition("A_1", 12, 4095)),
        ("X" * 32 + ":1:2", Partition("X" * 32, 1, 2)),
    ],
)
def test_name_of_a_partition_is_read(name: str, partition: Partition) -> None:
    assert Partition.parse(name) == partition


@pytest.mark.parametrize(
    "name",
    [
        *("", "player", "PLAYER:", "PLAYER:1", "PLAYER:1:", "PLAYER:1:0:0", "PLAYER:-1:0", "PLAYER:1:0\n", " PLAYER"),
        *("1A", "X" * 33, "A-B", "{A}", "PLAYER:x:0", "PLAYER:1:1234567890", "É", "PLAYER\0"),
    ],
    ids=repr,
)
def test_name_that_is_no_partition_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Partition.parse(name)
    expected = f"partition: expected SPECIALIZATION or SPECIALIZATION:generation:shard, got {name!r}"
    assert str(caught.value) == expected


@given(specializations.map(str.upper), st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1))
def test_written_name_is_read(specialization: str, generation: int, shard: int) -> None:
    partition = Partition(specialization, generation, shard)
    assert Partition.parse(str(partition)) == partition


def test_keys_have_the_documented_names() -> None:
    partition = Partition("PLAYER", 1, 3)
    assert KEYS.of(partition, "ready") == "levelq:{PLAYER:1:3}:ready"
    assert KEYS.of(partition, "") == "levelq:{PLAYER:1:3}:"
    assert KEYS.lane(partition, 42) == "levelq:{PLAYER:1:3}:lane:42"
    assert KEYS.queue("PLAYER") == "levelq.PLAYER"
    assert KEYS.reply(bytes(range(16))) == "levelq:reply:000102030405060708090a0b0c0d0e0f"


def test_every_key_begins_with_the_namespace() -> None:
    keys = Keys("other")
    partition = Partition("PLAYER")
    names = {
        *(keys.of(partition, "ready"), keys.lane(partition, 1), keys.reply(bytes(16))),
        *(keys.registry, keys.shards, keys.notices, keys.workers, keys.database, keys.drift, keys.auditor, keys.trends),
    }
    assert {name.partition(":")[0] for name in names} == {"other"}
    assert len(names) == 11


@pytest.mark.parametrize(
    ("queue", "specialization"),
    [
        ("levelq.PLAYER", "PLAYER"),
        ("levelq2.PLAYER", None),
        ("level.PLAYER", None),
        ("levelq.", None),
        ("default", None),
    ],
)
def test_queue_of_another_namespace_has_no_specialization(queue: str, specialization: str | None) -> None:
    assert KEYS.specialization(queue) == specialization


@given(specializations.map(str.upper), user_ids, st.integers(1, 4096), st.text(max_size=10))
def test_every_key_of_a_partition_has_its_hash_tag(specialization: str, user_id: int, shards: int, name: str) -> None:
    partition = Partition.of(specialization, user_id, shards)
    for key in (KEYS.of(partition, "ready"), KEYS.lane(partition, user_id), KEYS.of(partition, name)):
        tag = re.search(r"\{(.+?)\}", key)  # what Cluster hashes: from the first { to the next }
        assert tag is not None
        assert tag[1] == str(partition)


# 123456789 is the check value that defines CRC-32: 0xCBF43926. gzip(1) gives the others.
@pytest.mark.parametrize(
    ("user_id", "crc"), [(123456789, 0xCBF43926), (1, 0x83DCEFB7), (42, 0x3224B088), (2**63 - 1, 0x42EA0ADE)]
)
@pytest.mark.parametrize("shards", [2, 3, 16, 4096])
def test_user_stays_in_one_shard(user_id: int, crc: int, shards: int) -> None:
    assert Partition.of("PLAYER", user_id, shards) == Partition("PLAYER", 1, crc % shards)


@given(user_ids)
def test_only_shard_is_shard_0(user_id: int) -> None:
    assert Partition.of("PLAYER", user_id, 1) == Partition("PLAYER", 1, 0)


def test_users_are_spread_over_the_shards() -> None:
    shards = [Partition.of("PLAYER", user_id, 8).shard for user_id in range(1, 8001)]
    assert all(800 <= shards.count(shard) <= 1200 for shard in range(8))
