"""The settings: read once, checked, frozen; a bad one is refused in one line that names its variable."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from levelq import AsyncProducer, InvalidArgument, Producer, status
from levelq.testing import RecordingProducer
from levelq_core import Catalog, CatalogError, ConfigurationError, Settings
from levelq_core.redis_client.url_options import redacted
from levelq_core.settings import default_catalog


def refusal(**given_: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**given_)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_those_of_the_design() -> None:
    s = Settings.load()
    assert s.namespace == "levelq"
    assert (s.redis_url, s.rq_url, s.database_url, s.catalog) == ("redis://localhost:6379/0", None, None, None)
    assert (s.claim_seconds, s.sweep_seconds, s.reply_seconds) == (10, 2, 60)
    assert (s.lane_limit, s.partition_limit, s.payload_limit, s.shards) == (200_000, 2_000_000, 4096, 1)
    assert list(s.tracks) == ["PLAYER", "COACH", "INTERNSHIP"]


@pytest.mark.parametrize("name", ["", "Levelq", "2nd", "a:b", "a.b", "a b", "a{b}", "a\n", "é", "a" * 33])
def test_a_bad_namespace_is_named_with_what_is_expected(name: str) -> None:
    message = refusal(namespace=name)
    assert message.startswith("LEVELQ_NAMESPACE: ")
    assert "[a-z][a-z0-9_-]{0,31}" in message
    assert message.endswith(f"got {name!r}")


READ = {
    "NAMESPACE": ("staging-2_b", "staging-2_b"), "REDIS_URL": ("rediss://r:1/2", "rediss://r:1/2"),
    "RQ_URL": ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    "DATABASE_URL": ("postgresql://h/d", "postgresql://h/d"),
    "LISTEN_URL": ("postgresql://h:5433/d", "postgresql://h:5433/d"), "NOTIFY": ("true", True),
    "CATALOG": ("/etc/levelq.toml", Path("/etc/levelq.toml")), "CLAIM_SECONDS": ("2.5", 2.5),
    "SWEEP_SECONDS": ("1", 1.0), "DURABILITY": ("replicated", "replicated"), "DURABLE_SECONDS": ("0.5", 0.5),
    "APPENDFSYNC": ("always", "always"), "BATCH_COMMANDS": ("7", 7), "BATCH_LANES": ("8", 8),
    "BATCH_BYTES": ("2048", 2048), "LANE_LIMIT": ("9", 9), "PARTITION_LIMIT": ("10", 10), "PAYLOAD_LIMIT": ("200", 200),
    "PROCESSES": ("3", 3), "SHARDS": ("4", 4), "shards": ("5", 5),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_each_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = READ[name]
    monkeypatch.setenv(f"LEVELQ_{name}" if name.isupper() else f"levelq_{name}", text)
    assert getattr(Settings.load(), name.lower()) == value


def test_without_the_prefix_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "77")
    assert Settings.load() == Settings()
    assert Settings.load().shards == 1


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"LEVELQ_{name.upper()}", "")
    assert Settings.load().redis_url == "redis://localhost:6379/0"
    assert Settings.load().catalog is None


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVELQ_SHARDS", "5")
    assert Settings.load(shards=2).shards == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CLAIM_SECONDS", "soon"), ("CLAIM_SECONDS", "0"), ("CLAIM_SECONDS", "-1"), ("CLAIM_SECONDS", "nan"),
        ("CLAIM_SECONDS", "inf"), ("BATCH_COMMANDS", "0"), ("BATCH_COMMANDS", "1.5"), ("PROCESSES", "257"),
        ("SHARDS", "4097"), ("PAYLOAD_LIMIT", "127"), ("DURABILITY", "disk"), ("DURABLE_SECONDS", "0"),
        ("APPENDFSYNC", "everysec"),
    ],
)  # fmt: skip
def test_bad_value_is_reported_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"LEVELQ_{name}", text)
    message = refusal()
    assert message.startswith(f"LEVELQ_{name}: ") and message.endswith(f"got {text!r}")


def test_all_bad_values_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVELQ_SHARDS", "many")
    message = refusal(processes=0, nonsense=1)
    for name in ("LEVELQ_SHARDS: ", "LEVELQ_PROCESSES: ", "LEVELQ_NONSENSE: "):
        assert name in message


def test_a_call_must_be_shorter_than_a_claim() -> None:
    Settings.load(claim_seconds=2.0, redis_seconds=1.9)
    for claim in (2.0, 1.0):
        message = refusal(claim_seconds=claim, redis_seconds=2.0)
        assert "LEVELQ_REDIS_SECONDS" in message
        assert "LEVELQ_CLAIM_SECONDS" in message


def test_a_wait_for_durability_must_end_before_its_call() -> None:
    assert Settings.load(redis_seconds=3.0).durable_ms == 1500
    assert Settings.load(redis_seconds=3.0, durable_seconds=2.9).durable_ms == 2900
    assert Settings.load(redis_seconds=0.05).durable_ms == 25
    message = refusal(redis_seconds=3.0, durable_seconds=2.95)
    assert message == (
        "LEVELQ_DURABLE_SECONDS: expected at least 0.1 less than LEVELQ_REDIS_SECONDS (3), "
        "or a call ends during the wait, got 2.95"
    )


@pytest.mark.parametrize("name", ["redis_url", "rq_url", "database_url", "listen_url"])
@pytest.mark.parametrize(
    "url", ["http://user:s3cret@host", "s3cret", "host:6379/s3cret", "redis//:s3cret@h", "x://[s3cret"]
)
def test_a_bad_url_is_refused_without_its_password(name: str, url: str) -> None:
    message = refusal(**{name: url})
    assert message.startswith(f"LEVELQ_{name.upper()}: ")
    assert "s3cret" not in message
    with pytest.raises(ValidationError) as caught:
        Settings(**{name: url})  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h", "h:6379", ""])
def test_a_bad_url_is_refused_with_what_was_expected(url: str) -> None:
    assert "expected a URL that begins with redis:// or rediss:// or unix://" in refusal(redis_url=url)
    assert "expected a URL that begins with postgresql:// or " in refusal(database_url=url)


def test_neither_repr_nor_str_shows_a_password() -> None:
    s = Settings.load(
        redis_url="redis://:s3cret@h", rq_url="redis://u:s3cret@h", database_url="postgresql://u:s3cret@h/d"
    )
    assert "s3cret" not in f"{s!r} {s} {s!s}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
        ("rediss://u:s3cret@h?timeout=1", "rediss://u:***@h?timeout=1"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:s3@cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:s3cret@[::1]:5432/d", "postgresql://u:***@[::1]:5432/d"),
        ("postgresql://u:@/d?host=/run", "postgresql://u:***@/d?host=/run"),
        ("unix:///run/valkey.sock?db=1", "unix:///run/valkey.sock?db=1"),
    ],
)
def test_redacted_hides_the_password_and_nothing_else(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h/d?password=s3cret",
        "postgresql://h/d?user=u&password=s3cret&connect_timeout=3",
        "redis://h:6379/0?password=s3cret",
        "unix:///run/valkey.sock?password=s3cret",
    ],
)
def test_redacted_hides_a_password_among_the_options_too(url: str) -> None:
    assert "s3cret" not in redacted(url)
    assert redacted(url).startswith(url.partition("?")[0])


@pytest.mark.parametrize("make", [Producer, AsyncProducer, RecordingProducer, status])
def test_what_is_no_settings_is_refused_without_its_password(make: Any) -> None:
    with pytest.raises(
        InvalidArgument, match=r"^settings: expected a levelq\.Settings, got a str; a URL is for"
    ) as caught:
        make("redis://:hidden@localhost:6379/0")
    assert "hidden" not in repr(vars(caught.value))


def test_settings_are_frozen() -> None:
    s = Settings.load()
    for name in Settings.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(s, name, getattr(s, name))


@given(st.floats(0.5, 3600))
@example(0.5)
@example(3600)
def test_lock_is_shorter_than_statement_than_transaction_than_claim(claim: float) -> None:
    s = Settings.load(claim_seconds=claim, redis_seconds=0.05)
    assert 0 < s.lock_ms < s.statement_ms < s.transaction_ms < claim * 1000


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_database_url_means_psycopg_3(scheme: str) -> None:
    assert Settings.load(database_url=f"{scheme}://u:p@h/d?x=y").sqlalchemy_url == "postgresql+psycopg://u:p@h/d?x=y"


def test_without_a_database_url_the_error_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_DATABASE_URL: not set, expected postgresql://"):
        _ = Settings.load().sqlalchemy_url


def test_another_driver_is_refused() -> None:
    assert refusal(database_url="postgresql+asyncpg://h/d").startswith("LEVELQ_DATABASE_URL: ")
    assert refusal(database_url="mysql://h/d").startswith("LEVELQ_DATABASE_URL: ")


def test_rq_may_live_elsewhere() -> None:
    assert Settings.load(redis_url="redis://a").queue_url == "redis://a"
    assert Settings.load(redis_url="redis://a", rq_url="redis://b").queue_url == "redis://b"


def test_the_catalog_is_read_once_and_its_errors_come_through(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text("[CHEF]\nlevels = [0, 5]\n")
    s = Settings.load(catalog=path)
    assert list(s.tracks) == ["CHEF"]
    path.unlink()
    assert s.tracks["CHEF"].max_level == 2
    with pytest.raises(CatalogError):
        _ = Settings.load(catalog=path).tracks


OWN = Catalog.of({"CHEF": [0, 5]})


@pytest.mark.parametrize("source", [OWN, {"chef": [0, 5]}, '{"CHEF": [0, 5]}'])
def test_a_catalog_that_is_an_object_reaches_child_processes(monkeypatch: pytest.MonkeyPatch, source: Any) -> None:
    settings = Settings.load(catalog=source)
    assert (settings.catalog, settings.tracks, hash(settings)) == (OWN, OWN, hash(Settings.load(catalog=OWN)))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
    assert default_catalog() == OWN


def test_catalog_that_is_too_long_for_a_variable_works_in_this_process_only() -> None:
    settings = Settings.load(catalog={"CHEF": list(range(30_000))})
    assert settings.tracks["CHEF"].max_level == 30_000
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_CATALOG: expected at most 100,000 bytes .*, got 168,900; "):
        settings.environment()


def test_what_is_no_catalog_is_refused() -> None:
    expected = "LEVELQ_CATALOG: expected a Catalog, or the path of a TOML or JSON file, got [0, 5]"
    assert refusal(catalog=[0, 5]) == expected
    with pytest.raises(CatalogError, match=r"^LEVELQ_CATALOG: CHEF: level 2: total_xp: expected a whole number"):
        Settings.load(catalog={"CHEF": [0, -5]})


@pytest.mark.parametrize("given", ["none", "0", None, 0])
def test_audits_of_the_levels_are_switched_off(given: object) -> None:
    off = Settings.load(drift_seconds=given)
    assert off.drift_seconds == 0
    assert off.environment()["LEVELQ_DRIFT_SECONDS"] == "0.0"  # for worker processes
