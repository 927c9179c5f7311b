"""What `levelq doctor` and `levelq db check` call an error is what a worker refuses to start on: one list of checks."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine, NullPool, create_engine

from levelq.embedded import Servers
from levelq_core import LevelEvents, Settings
from levelq_core.errors import ConfigurationError, SchemaError
from levelq_core.operations import dbcheck
from levelq_core.operations.checks import check_all
from levelq_core.operations.dbcheck import Finding
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.preflight import preflight
from tests.integration.core.operations.dbcheck.test_db_check import FAULTS
from tests.support.db_check import execute, findings, fix, query, role
from tests.support.fixtures.command_line import LevelqWith
from tests.support.fixtures.databases import as_role
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.tls import Authority, Front, authority
from tests.support.fixtures.valkeys import Node, Valkeys


def errors(settings: Settings) -> list[Finding]:
    return [finding for finding in check_all(settings) if finding.severity == "error"]


def warnings(settings: Settings) -> list[str]:
    return [finding.problem for finding in check_all(settings) if finding.severity == "warning"]


def refusal(settings: Settings) -> ConfigurationError:
    """Why a worker does not start."""
    with pytest.raises(ConfigurationError) as refused:
        preflight(settings)
    assert not any("\n" in reason for reason in refused.value.reasons)
    return refused.value


# The database


@pytest.mark.parametrize("fault", FAULTS)
def test_worker_refuses_to_start_on_every_error_of_db_check(
    fault: str, settings: Settings, own_engine: Engine, redis: Redis
) -> None:
    execute(own_engine, "INSERT INTO user_licenses (user_id, specialization_type) VALUES (1, 'PLAYER')")
    breaking, problem = FAULTS[fault]
    execute(own_engine, *breaking.split("; "))
    assert ("error", problem) in [finding[:2] for finding in findings(own_engine)]
    refused = refusal(settings)
    assert isinstance(refused, SchemaError)
    assert f"{problem}; `levelq db check` prints the statements that fix it" in refused.reasons
    with pytest.raises(SchemaError) as again:
        LaneWorker(["levelq.PLAYER"], connection=redis, settings=settings).work(burst=True)
    assert again.value.reasons == refused.reasons
    fix(own_engine, findings(own_engine))
    preflight(settings)


def test_several_errors_are_refused_in_a_line_each_and_warnings_are_logged(
    settings: Settings, own_engine: Engine, levelq_with: LevelqWith, caplog: pytest.LogCaptureFixture
) -> None:
    execute(
        own_engine,
        "ALTER TABLE user_licenses ADD COLUMN region text NOT NULL",
        "ALTER TABLE specialization_progress ADD COLUMN school text NOT NULL",
        "ALTER TABLE levelq_ledger SET UNLOGGED",
    )
    with caplog.at_level(logging.WARNING, "levelq"):
        told = levelq_with(settings)("worker", "--burst", "--processes", "3")
    assert (told.code, told.out) == (2, "")
    lines = told.err.splitlines()
    assert len(lines) == 3, told.err
    assert all(line.startswith("levelq: ") for line in lines)
    assert all(line.endswith("; `levelq db check` prints the statements that fix it") for line in lines)
    assert {line.split()[1] for line in lines} == {
        "user_licenses.region", "specialization_progress.school", "levelq_ledger",
    }  # fmt: skip
    assert levelq_with(settings)("db", "check").code == 1
    assert levelq_with(settings)("doctor").code == 1
    execute(
        own_engine,
        "ALTER TABLE user_licenses ALTER COLUMN region SET DEFAULT 'north'",
        "ALTER TABLE specialization_progress ALTER COLUMN school SET DEFAULT 'none'",
    )
    fix(own_engine, findings(own_engine))
    assert levelq_with(settings)("db", "check").code == 0
    assert levelq_with(settings)("worker", "--burst").code == 0


def test_warnings_alone_exit_0(settings: Settings, own_engine: Engine, levelq_with: LevelqWith) -> None:
    execute(
        own_engine, "INSERT INTO user_licenses (user_id, specialization_type, current_level) VALUES (1, 'PLAYER', 2)"
    )
    for command in (("doctor",), ("db", "check")):
        told = levelq_with(settings)(*command)
        assert told.code == 0 and "warn" in told.out and "levels out of step" in told.out
    assert levelq_with(settings)("worker", "--burst").code == 0


READ_ONLY = "the database is read-only, so nothing can be applied: "
SET_READ_ONLY = {
    "the database": "ALTER DATABASE {database} SET default_transaction_read_only = on",
    "the role": "ALTER ROLE levelq_reads SET default_transaction_read_only = on",
    "the role in the database": "ALTER ROLE levelq_reads IN DATABASE {database} SET default_transaction_read_only = on",
}


@pytest.mark.parametrize("where", SET_READ_ONLY)
def test_read_only_database_is_an_error_and_what_is_printed_mends_it(
    where: str, settings: Settings, own_engine: Engine, levelq_with: LevelqWith
) -> None:
    name = own_engine.url.database
    everything = [f"GRANT ALL ON ALL {kind} IN SCHEMA public TO levelq_reads" for kind in ("TABLES", "SEQUENCES")]
    with role(own_engine, "levelq_reads", *everything):
        reads = as_role(settings, "levelq_reads")
        assert errors(reads) == []
        execute(own_engine, SET_READ_ONLY[where].format(database=name))
        (found,) = errors(reads)
        assert found.problem == f"{READ_ONLY}default_transaction_read_only is on"
        assert READ_ONLY in refusal(reads).reasons[0]
        assert levelq_with(reads)("doctor").code == 1
        own_engine.dispose()  # a new connection has the setting, too
        execute(own_engine, *found.fix)
        own_engine.dispose()
        assert errors(reads) == []


def test_read_only_option_of_the_url_is_an_error(settings: Settings, levelq_with: LevelqWith) -> None:
    url = f"{settings.database_url}&options=-cdefault_transaction_read_only%3Don"
    reads = settings.model_copy(update={"database_url": url})
    (found,) = errors(reads)
    assert found.fix == (
        "-- take default_transaction_read_only out of the options of LEVELQ_DATABASE_URL (or of PGOPTIONS)",
    )
    told = levelq_with(reads)("doctor")
    assert told.code == 1 and f"FAIL  schema      {READ_ONLY}" in told.out


def test_standby_is_an_error_that_names_the_primary_as_the_remedy(settings: Settings) -> None:
    with ExitStack() as stack:
        # Not in pytest's folder, which a second run by root closes to PostgreSQL's account.
        servers = Servers(Path(stack.enter_context(TemporaryDirectory(prefix="levelq-tests-"))))
        stack.callback(servers.sockets.rmdir)
        stack.enter_context(servers.postgres)
        (servers.postgres.folder / "standby.signal").touch()
        servers.postgres.stop()
        servers.postgres.start()
        standby = settings.model_copy(update={"database_url": servers.postgres.url})
        found = errors(standby)
        assert found[0].problem == f"{READ_ONLY}it is a standby"
        assert "target_session_attrs=read-write" in found[0].fix[0]
        engine = create_engine(standby.sqlalchemy_url, poolclass=NullPool)
        with pytest.raises(ConfigurationError, match="expected the primary server, got a standby"):
            list(LevelEvents(engine, "a consumer"))


def test_role_that_may_not_insert_is_an_error_and_the_printed_grant_mends_it(
    settings: Settings, own_engine: Engine, levelq_with: LevelqWith
) -> None:
    with role(own_engine, "levelq_reads", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO levelq_reads"):
        reads = as_role(settings, "levelq_reads")
        found = errors(reads)
        assert found[0].problem == (
            "role levelq_reads lacks INSERT, UPDATE, DELETE on specialization_progress, which a worker needs"
        )
        assert levelq_with(reads)("doctor").code == levelq_with(reads)("db", "check").code == 1
        assert levelq_with(reads)("worker", "--burst").code == 2
        fix(own_engine, found)
        assert errors(reads) == []
        assert levelq_with(reads)("worker", "--burst").code == 0


def test_role_without_any_right_gets_all_of_them_listed(settings: Settings, own_engine: Engine) -> None:
    with role(own_engine, "levelq_stranger"):
        stranger = as_role(settings, "levelq_stranger")
        found = [finding.problem for finding in errors(stranger)]
        assert len(found) == 7 and all("lacks SELECT" in problem for problem in found)
        fix(own_engine, errors(stranger))
        assert errors(stranger) == []


def test_row_that_cannot_be_written_is_an_error(settings: Settings, own_engine: Engine) -> None:
    """What no catalog shows: here a trigger; a full disk shows the same way."""
    execute(
        own_engine,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END$$",
        "CREATE TRIGGER disk BEFORE INSERT ON levelq_quarantine FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    (found,) = errors(settings)
    assert found.problem == "a row that was written as a test was refused: no space left (SQLSTATE 53100)"


def test_checks_leave_the_database_as_it_was(settings: Settings, own_engine: Engine) -> None:
    check_all(settings)
    assert query(own_engine, "SELECT count(*) FROM levelq_quarantine") == [(0,)]
    assert query(own_engine, "SELECT is_called FROM levelq_quarantine_id_seq") == [(False,)]


# Redis


@pytest.fixture
def valkeys(tmp_path: Path) -> Iterator[Valkeys]:
    with ExitStack() as stack:
        yield Valkeys(tmp_path, stack)


@pytest.fixture
def valkey(valkeys: Valkeys) -> Node:
    return valkeys.start()


def on(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"redis_url": url})


@pytest.mark.parametrize("version", ["6.2.5", "5.0.9"])
def test_redis_below_7_is_refused_in_one_line(
    version: str, settings: Settings, valkey: Node, levelq_with: LevelqWith
) -> None:
    """Redis 6.2.5 itself was tried by hand: its scripts cannot declare that they may run when memory is full."""
    with Proxy(valkey.socket) as proxy:
        proxy.rewritten = {b"redis_version:7.2.4": f"redis_version:{version}".encode(), b"\nvalkey_v": b"\nformer_v"}
        old = on(settings, f"redis://127.0.0.1:{proxy.port}/0")
        told = levelq_with(old)("worker", "--processes", "3")
        assert (told.code, told.out) == (2, "")
        assert told.err == (
            f"levelq: Redis {version} at redis://127.0.0.1:{proxy.port}/0 is too old, expected Redis 7 or later, or "
            "Valkey: move to Redis 7 or later, or Valkey\n"
        )
        doctor = levelq_with(old)("doctor")
        assert doctor.code == 1 and doctor.out.count("FAIL") == 1


def test_replica_is_refused_and_the_primary_is_named(
    settings: Settings, valkeys: Valkeys, levelq_with: LevelqWith
) -> None:
    primary = valkeys.start()
    (replica,) = valkeys.replicas_of(primary)
    told = levelq_with(on(settings, replica.url))("doctor")
    assert told.code == 1 and told.out.count("FAIL") == 1
    assert replica.link is not None
    (reason,) = refusal(on(settings, replica.url)).reasons
    assert "is a replica, and takes no writes" in reason and f"127.0.0.1:{replica.link.port}" in reason


ALLOWED = "allchannels +@all -@dangerous +info +config|get"
DENIED = {
    "may only read": (f"{ALLOWED} -@write ~*", "pushes", "'del' command"),
    "lacks one command of the scripts": (f"{ALLOWED} -zadd ~*", "pushes", "'zadd' command"),
    "may not touch levelq's keys": (f"{ALLOWED} ~other:*", "pushes", "permission"),
    "may not run scripts": (f"{ALLOWED} -evalsha ~*", "pushes", "'evalsha' command"),
    "may not load scripts": (f"{ALLOWED} -script|load ~*", "pushes", "'script|load' command"),
}


@pytest.mark.parametrize("rule", DENIED)
def test_user_of_redis_who_may_not_write_is_an_error(rule: str, settings: Settings, valkey: Node) -> None:
    rules, topic, words = DENIED[rule]
    valkey.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", *rules.split())
    ann = on(settings, valkey.url.replace("unix://", "unix://ann:secret@"))
    (found, *_) = errors(ann)
    assert found.topic == topic and words in found.problem
    assert "ACL SETUSER" in found.fix[0]
    assert words in refusal(ann).reasons[0]


def test_user_of_redis_who_may_not_ask_for_its_version_is_a_warning(settings: Settings, valkey: Node) -> None:
    valkey.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "+@all", "-info", "~*", "allchannels")
    ann = on(settings, valkey.url.replace("unix://", "unix://ann:secret@"))
    assert errors(ann) == []
    (warning,) = warnings(ann)
    assert "its version and its safety are unknown" in warning
    preflight(ann)


def test_full_redis_is_a_warning_as_workers_drain_it(settings: Settings, valkey: Node, levelq_with: LevelqWith) -> None:
    valkey.client.config_set("maxmemory", "1mb")
    full = on(settings, valkey.url)
    told = levelq_with(full)("doctor")
    assert told.code == 0
    assert "warn  pushes" in told.out and "command not allowed when used memory > 'maxmemory'" in told.out
    preflight(full)


def test_checks_leave_no_key_behind(settings: Settings, redis: Redis) -> None:
    check_all(settings)
    assert redis.keys() == []


# Over a network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls"))


def test_certificate_of_redis_that_cannot_be_verified_is_an_error_that_says_what_to_give(
    made: Authority, settings: Settings, valkey: Node, levelq_with: LevelqWith
) -> None:
    with Front(valkey.socket, made) as front:
        url = f"rediss://localhost:{front.port}/0"
        told = levelq_with(on(settings, url))("doctor")
        advice = "the server's TLS certificate cannot be verified: give LEVELQ_REDIS_URL ssl_ca_certs=/path/to/ca.pem"
        assert told.code == 1 and "FAIL  redis" in told.out and advice in told.out
        assert advice in levelq_with(on(settings, url))("worker").err
        assert errors(on(settings, f"{url}?ssl_ca_certs={made.ca}")) == []
        preflight(on(settings, f"{url}?ssl_ca_certs={made.ca}"))


def test_host_that_a_certificate_of_redis_does_not_name_is_an_error(
    made: Authority, settings: Settings, valkey: Node
) -> None:
    with Front(valkey.socket, made) as front:
        url = f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={made.ca}"
        (found,) = errors(on(settings, url))
        assert "a host that the certificate names" in found.problem


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://queue.invalid/0", "redis:// to queue.invalid is not encrypted"),
        ("rediss://queue.invalid/0?ssl_cert_reqs=none", "with ssl_cert_reqs=none it is not verified"),
        ("rediss://queue.invalid/0?ssl_check_hostname=no", "with ssl_check_hostname off any certificate"),
        ("redis://127.0.0.1:1/0", None),
        ("redis://[::1]:1/0", None),
        ("redis://localhost:1/0", None),
        ("unix:///nowhere/valkey.sock", None),
        ("rediss://queue.invalid/0", None),
    ],
)
def test_plaintext_to_another_host_warns(url: str, warned: str | None, settings: Settings) -> None:
    found = warnings(on(settings, url))
    assert any(warned in problem for problem in found) if warned else not any("encrypt" in each for each in found)


def database_front(servers: Servers, made: Authority) -> Front:
    return Front(str(servers.postgres.sockets / ".s.PGSQL.5432"), made, asked_first=True)


def through(settings: Settings, port: int, options: str, host: str = "localhost") -> Settings:
    """The same database, at this host and port of this machine."""
    assert settings.database_url is not None
    name = settings.database_url.partition("@/")[2].partition("?")[0]
    url = f"postgresql://postgres@{host}:{port}/{name}?hostaddr=127.0.0.1&{options}"
    return settings.model_copy(update={"database_url": url})


def test_certificate_of_postgresql_that_cannot_be_verified_is_an_error_that_says_what_to_give(
    made: Authority, settings: Settings, servers: Servers, levelq_with: LevelqWith, tmp_path: Path
) -> None:
    advice = "the server's TLS certificate cannot be verified: give LEVELQ_DATABASE_URL sslrootcert=/path/to/ca.pem"
    other = authority(tmp_path)
    with database_front(servers, made) as front:
        for options in ("sslmode=verify-full", f"sslmode=verify-full&sslrootcert={other.ca}"):
            told = levelq_with(through(settings, front.port, options))("doctor")
            assert told.code == 1 and "FAIL  database" in told.out, told.out
            assert advice in told.out, told.out
        trusted = f"sslmode=verify-full&sslrootcert={made.ca}"
        assert advice in str(refusal(through(settings, front.port, trusted, host="db.invalid")))
        sound = through(settings, front.port, trusted)
        assert errors(sound) == [] == warnings(sound)


def test_connection_to_a_database_on_another_host_that_is_not_safe_warns(
    made: Authority, settings: Settings, servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    socket = str(servers.postgres.sockets / ".s.PGSQL.5432")
    with Proxy(socket) as plain, database_front(servers, made) as front:
        open_ = through(settings, plain.port, "sslmode=disable", host="db.invalid")
        assert warnings(open_) == ["LEVELQ_DATABASE_URL: the connection to db.invalid is not encrypted"]
        with caplog.at_level(logging.WARNING, "levelq"):
            preflight(open_)
        assert "the connection to db.invalid is not encrypted" in caplog.text
        unverified = through(settings, front.port, "sslmode=require", host="db.invalid")
        assert warnings(unverified) == [
            "LEVELQ_DATABASE_URL: with sslmode=require it is not verified that the server is db.invalid"
        ]
        assert warnings(through(settings, plain.port, "sslmode=disable")) == []


def test_server_that_is_away_is_waited_for_by_a_worker_of_rq_and_refused_by_levelq_worker(
    settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://127.0.0.1:1/nothing"})
    assert "connection refused" in str(refusal(away)).lower()
    with caplog.at_level(logging.WARNING, "levelq"):
        LaneWorker(["levelq.PLAYER"], connection=redis, settings=away).work(burst=True)
    assert any(line.startswith("waiting: PostgreSQL: ") for line in caplog.messages)


def test_no_password_is_shown(settings: Settings, servers: Servers, levelq_with: LevelqWith) -> None:
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        assert admin.execute("SELECT 1").fetchone() == (1,)
    secret = settings.model_copy(
        update={
            "redis_url": "redis://ann:hunter2@127.0.0.1:1/0",
            "database_url": "postgresql://ann:hunter2@127.0.0.1:1/nothing",
        }
    )
    for command in ("doctor", "worker"):
        told = levelq_with(secret)(command)
        assert told.code in (1, 2) and "hunter2" not in told.out + told.err


# Looks at rows that take long


def test_tables_locked_by_a_migration_hold_no_worker_up(
    settings: Settings, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dbcheck, "START_SECONDS", 0.05)
    names = ("specialization_progress", "user_licenses", "levelq_quarantine")
    with own_engine.begin() as migration, caplog.at_level(logging.WARNING, "levelq"):
        migration.exec_driver_sql(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")
        preflight(settings)
    for name in names:
        assert any(
            name in line and "could not be checked in time: canceling statement" in line for line in caplog.messages
        )
    caplog.clear()
    preflight(settings)
    assert caplog.messages == []


@pytest.mark.parametrize(("thorough", "limit"), [(True, "0"), (False, "10s")])
def test_statement_timeout_of_the_role_gives_way_to_that_of_the_checks(
    thorough: bool, limit: str, own_engine: Engine
) -> None:
    """A role's own, shorter than a look at all rows, refused a worker its start and failed `levelq doctor`."""
    with own_engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = '1h'")
        dbcheck.check(connection, thorough=thorough)
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == limit
        connection.rollback()


def test_serial_sequence_without_usage_is_an_error_and_the_printed_grant_mends_it(
    settings: Settings, own_engine: Engine
) -> None:
    """An identity column needs no right on its sequence; a serial one, as applications have, does."""
    everything = "GRANT ALL ON ALL TABLES IN SCHEMA public TO levelq_draws"
    serial = (
        "ALTER TABLE user_licenses ALTER id DROP IDENTITY IF EXISTS",
        "CREATE SEQUENCE licenses_seq OWNED BY user_licenses.id",
        "ALTER TABLE user_licenses ALTER id SET DEFAULT nextval('licenses_seq')",
    )
    execute(own_engine, *serial)
    with role(own_engine, "levelq_draws", everything):
        draws = as_role(settings, "levelq_draws")
        assert [finding.problem for finding in errors(draws)] == [
            "user_licenses.id: this role may not draw from its sequence, licenses_seq: inserts fail"
        ]
        assert "licenses_seq" in refusal(draws).reasons[0]
        fix(own_engine, errors(draws))
        assert errors(draws) == []
        preflight(draws)
        with psycopg.connect(draws.database_url or "", autocommit=True) as connection:
            connection.execute("INSERT INTO user_licenses (user_id, specialization_type) VALUES (1, 'PLAYER')")
