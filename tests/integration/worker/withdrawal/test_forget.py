"""`levelq forget`: a person is erased, what was counted stays counted, and no command takes effect twice."""

import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from levelq import LevelUp, Outbox, Producer, SetLevel, Settings, level_up_atomic
from levelq_core.database.migrations import upgrade, upgrade_sql
from levelq_core.domain.codec import encode
from levelq_core.operations.erasing import erase
from levelq_core.operations.verify import Options, verify
from levelq_worker.draining.drain import Drain
from tests.integration.core.operations.test_grants import statements
from tests.support.coupler import drain_all, push_raw, runtime, session, wait_until_blocked_by
from tests.support.db_check import execute, findings, fix, query
from tests.support.fixtures import application
from tests.support.fixtures.command_line import Levelq
from tests.support.system import up
from tests.support.verify import PLAYER, World, assert_clean

SECRET = "met Alice of Elm Street"
USER = 42_424_242_424_242  # so long that no random id, hash or time holds its digits
EXPIRES = "expires: "


def dump(world: World) -> list[str]:
    """All that the database and Redis hold, one line each, but replies."""
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(spec|user_|lic|levelq_)'"
    found = []
    for (table,) in query(world.engine, tables):
        found += [f"{table}: {row}" for row in query(world.engine, f"SELECT t::text FROM {table} t")]
    redis: Any = world.redis
    reads: dict[bytes, Callable[..., Any]] = {
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1),
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"stream": redis.xrange,
    }
    for key in sorted(redis.keys("*")):
        left_ms = redis.pttl(key)  # -2: it has expired meanwhile
        if b":reply:" not in key and left_ms != -2:
            value = reads.get(redis.type(key), redis.get)(key)
            found.append(f"{EXPIRES if left_ms >= 0 else ''}{(key, value)!r}")
    return found


def lasting(world: World) -> list[str]:
    """What does not expire by itself: a reserved wake-up is gone after 5 s, however little has happened."""
    return [line for line in dump(world) if not line.startswith(EXPIRES)]


def named_in(dumped: list[str], user: int = USER) -> list[str]:
    """The lines of a dump that name a user: in digits, or in the 8 bytes of an integer of either order."""
    forms = [str(user)]
    for order in ("<q", ">q"):
        raw = struct.pack(order, user)
        forms += [raw.hex(), repr(raw)[2:-1]]
    return [line for line in dumped if any(form in line for form in forms)]


def holds_secret(dumped: list[str]) -> bool:
    return any(SECRET in line for line in dumped)


def live(world: World, user: int = USER) -> list[LevelUp | SetLevel]:
    """A user with a history in two specializations, who was refused once and advanced someone else."""
    commands: list[LevelUp | SetLevel] = [
        up(user, 3000, reason=SECRET),
        up(user, 1, "COACH", advanced_by=user),
        SetLevel(user_id=user, specialization="PLAYER", new_level=1, xp_change=-5000),
        up(7, 2600, advanced_by=user),
        up(7, 10),
    ]
    world.send(*commands)
    drain_all(world.worker, "PLAYER", "COACH")
    return commands


def test_nothing_personal_of_a_forgotten_user_is_left(world: World, levelq_here: Levelq) -> None:
    live(world)
    levelq_here("cancel", USER, "PLAYER", "--yes")
    waiting = [up(USER, 5, reason=SECRET), up(USER, 6, "INTERNSHIP")]
    world.send(*waiting)
    levelq_here("cancel", USER, "INTERNSHIP", "--yes")  # leaves a line in the audit
    push_raw(world.worker, "PLAYER", USER, SECRET.encode())
    with world.engine.begin() as connection:
        Outbox(connection, settings=world.settings).send(up(USER, 7, reason=SECRET))
    before = lasting(world)
    assert named_in(before) and holds_secret(before)

    code, out, err = levelq_here("forget", USER)
    assert (code, err.count("\n"), "--yes" in err) == (2, 1, True)
    code, out, _ = levelq_here("forget", USER, "--dry-run")
    assert code == 0 and lasting(world) == before
    assert "PLAYER: 2 commands in lanes, 1 row in the outbox" in out
    assert "delete  2 progress rows, 2 license rows, 1 progression" in out

    code, out, _ = levelq_here("forget", USER, "--yes")
    assert code == 0 and f"user {USER} is forgotten: 2 commands cancelled" in out
    after = dump(world)
    assert not holds_secret(after)
    assert named_in(after) == []
    assert query(world.engine, "SELECT student_id, total_xp FROM specialization_progress") == [(7, 2610)]
    assert query(world.engine, "SELECT advanced_by FROM license_progressions") == [(None,)]
    assert query(world.engine, "SELECT count(*), count(DISTINCT command_id) FROM levelq_ledger") == [(8, 8)]
    lines = query(world.engine, "SELECT action, target, detail FROM levelq_audit ORDER BY id")
    assert [line[:2] for line in lines] == [("cancel", "user 0 INTERNSHIP"), ("forget", "user 0")]
    assert (lines[1][2]["ledger"], lines[1][2]["cancelled"]) == (6, 2)
    assert_clean(world.verify(at_rest=True, partial_history=True))  # the outbox is not recorded

    before = lasting(world)
    assert levelq_here("forget", USER, "--yes") == (0, f"user {USER}: nothing to erase\n", "")
    assert lasting(world) == before


def test_commands_of_a_forgotten_user_are_still_known_and_later_ones_start_a_new_learner(
    world: World, levelq_here: Levelq
) -> None:
    commands = live(world)
    refused = world.producer.send(up(USER, 9))
    levelq_here("forget", USER, "--yes")
    assert refused.result(1).error == "cancelled"
    world.send(*commands[:3])
    again = world.producer.send(commands[0])
    drain_all(world.worker, "PLAYER", "COACH")
    outcome = again.result(1)
    assert (outcome.status, outcome.duplicate, outcome.after and outcome.after.total_xp) == ("applied", True, 3000)
    assert query(world.engine, f"SELECT FROM specialization_progress WHERE student_id = {USER}") == []
    assert findings(world.engine) == []
    world.send(up(USER, 1200))
    world.drain()
    assert query(world.engine, f"SELECT total_xp FROM specialization_progress WHERE student_id = {USER}") == [(1200,)]
    assert_clean(world.verify(at_rest=True, partial_history=True))


def test_long_history_is_cleared_in_batches_and_verify_finds_nothing_in_between(
    world: World, levelq_here: Levelq
) -> None:
    world.send(*(SetLevel(user_id=USER, specialization="PLAYER", new_level=n % 3 + 1, xp_change=1) for n in range(40)))
    world.drain()
    with session(str(world.settings.database_url)) as holder:
        holder.execute(f"SELECT FROM user_licenses WHERE user_id = {USER} FOR UPDATE")
        failed: list[str] = []

        def forget() -> None:
            try:
                erase(world.engine, USER, lock_ms=50, batch=7)
            except Exception as error:
                failed.append(str(error))

        thread = threading.Thread(target=forget)
        thread.start()
        thread.join(30)
        assert "lock timeout" in failed[0]
    assert query(world.engine, f"SELECT count(*) FROM levelq_ledger WHERE user_id = {USER}") == [(5,)]
    assert_clean(world.verify(at_rest=True, partial_history=True))
    assert erase(world.engine, USER, lock_ms=1000, batch=7).ledger == 5
    assert_clean(world.verify(at_rest=True, partial_history=True))


def test_author_and_reason_in_the_ledger_are_cleared_also_in_rows_of_others(world: World, levelq_here: Levelq) -> None:
    live(world)
    columns = "ADD COLUMN IF NOT EXISTS advanced_by bigint, ADD COLUMN IF NOT EXISTS reason text"
    execute(world.engine, f"ALTER TABLE levelq_ledger {columns}")
    world.sql(f"UPDATE levelq_ledger SET advanced_by = CASE user_id WHEN 7 THEN {USER} ELSE 7 END, reason = user_id")
    assert levelq_here("forget", USER, "--yes")[0] == 0
    kept = "SELECT DISTINCT user_id, coalesce(advanced_by, 0), coalesce(reason, '') FROM levelq_ledger ORDER BY 1"
    assert query(world.engine, kept) == [(0, 0, ""), (7, 0, "7")]


def test_users_are_forgotten_while_workers_drain(world: World, levelq_here: Levelq) -> None:
    """Each round sends, drains and forgets at once; nothing is applied twice, and the tables stay explained."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with world.another_worker() as worker:
                while not stop.is_set():
                    Drain(worker, PLAYER).run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(8):
            world.send(*(up(user, 400) for user in (1, 2, 3) for _ in range(5)))
            assert levelq_here("forget", 2, "--yes")[0] == 0
    finally:
        stop.set()
        thread.join(30)
    world.drain()
    levelq_here("forget", 2, "--yes")
    assert failures == []
    found = query(world.engine, "SELECT student_id, total_xp FROM specialization_progress ORDER BY 1")
    assert found == [(1, 16_000), (3, 16_000)]
    assert query(world.engine, "SELECT FROM levelq_ledger WHERE user_id = 2") == []
    assert_clean(world.verify(at_rest=True))


def test_learner_who_starts_while_the_tables_are_cleared_is_forgotten_as_a_whole(world: World) -> None:
    """A command of another specialization is applied between the steps of the last transaction."""
    live(world)
    with ThreadPoolExecutor(1) as thread, session(str(world.settings.database_url)) as holder:
        holder.execute("SELECT FROM license_progressions FOR UPDATE")
        erasing = thread.submit(erase, world.engine, USER, lock_ms=20_000)
        wait_until_blocked_by(str(world.settings.database_url), holder)
        world.send(up(USER, 70, "INTERNSHIP"))
        drain_all(world.worker, "INTERNSHIP")
        holder.rollback()
        assert erasing.result(30).progress == 3
    assert query(world.engine, "SELECT DISTINCT user_id FROM levelq_ledger ORDER BY 1") == [(0,), (7,)]
    assert_clean(world.verify(at_rest=True))


def test_audit_of_a_purge_names_no_user_whose_lane_was_unreadable(world: World, levelq_here: Levelq) -> None:
    world.send(up(7))
    world.redis.set(world.lane(USER), "no list")
    assert f"lane:{USER} is no list" in levelq_here("purge", "--yes")[2]
    world.redis.delete(world.lane(USER))
    ((detail,),) = query(world.engine, "SELECT detail FROM levelq_audit")
    assert (detail["cancelled"], detail["unreadable"]) == (1, 1)
    assert named_in(dump(world)) == []


def test_note_of_a_parked_lane_goes_with_it_while_a_dead_drain_holds_the_lane(
    world: World, levelq_here: Levelq
) -> None:
    world.send(up(USER, reason=SECRET))
    ((user, _),) = world.worker.lanes.claim(PLAYER, "drain", "token", 10).lanes
    world.worker.lanes.ack(PLAYER, "token", [(user, 0, b"")], {user: f"a trigger raised: {SECRET}"})
    assert world.worker.lanes.claim(PLAYER, "drain", "second", 10).lanes
    assert levelq_here("forget", USER, "--yes")[0] == 0
    assert not holds_secret(dump(world))
    world.expire(USER)
    world.drain()
    assert named_in(dump(world)) == []


def test_forget_refuses_what_it_cannot_read_before_it_changes_anything(world: World, levelq_here: Levelq) -> None:
    live(world)
    payload = encode(up(USER))
    push_raw(world.worker, "PLAYER", USER, payload[:2] + b"\x63" + payload[3:])
    before = lasting(world)
    code, _, err = levelq_here("forget", USER, "--yes")
    assert (code, "sent by a newer version of levelq" in err) == (2, True)
    kept = world.redis.lrange(world.lane(USER), 0, -1)
    world.redis.delete(world.lane(USER))
    world.redis.set(world.lane(USER), "no list")
    assert "expected a list" in levelq_here("forget", USER, "--yes")[2]
    world.redis.delete(world.lane(USER))
    world.redis.rpush(world.lane(USER), *kept)
    assert lasting(world) == before


def test_rows_that_other_code_holds_or_refers_to_are_reported_and_left(world: World, levelq_here: Levelq) -> None:
    live(world)
    changed = {"LEVELQ_CLAIM_SECONDS": "1", "LEVELQ_REDIS_SECONDS": "0.5"}
    with session(str(world.settings.database_url)) as holder:
        holder.execute(f"SELECT FROM specialization_progress WHERE student_id = {USER} FOR UPDATE")
        code, _, err = levelq_here("forget", USER, "--yes", **changed)
        assert (code, "other code holds this user's rows" in err, err.count("\n")) == (2, True, 1)
    execute(
        world.engine,
        "CREATE TABLE renewals (license bigint REFERENCES user_licenses (id))",
        "INSERT INTO renewals SELECT id FROM user_licenses",
    )
    code, _, err = levelq_here("forget", USER, "--yes", **changed)
    assert (code, "renewals" in err, "delete those first" in err) == (2, True, True)
    assert query(world.engine, f"SELECT count(*) FROM specialization_progress WHERE student_id = {USER}") == [(2,)]
    execute(world.engine, "DROP TABLE renewals")
    assert levelq_here("forget", USER, "--yes", **changed)[0] == 0


def test_later_command_of_a_user_the_application_deleted_starts_no_learner(
    settings: Settings, application_database_url: str, application_engine: Engine, levelq_here: Levelq
) -> None:
    theirs = settings.model_copy(update={"database_url": application_database_url})
    with Producer(theirs) as producer, runtime(theirs) as worker:
        producer.send(up(1, 3000))
        drain_all(worker, "PLAYER")
        assert levelq_here("forget", 1, "--yes", LEVELQ_DATABASE_URL=application_database_url)[0] == 0
        execute(application_engine, "DELETE FROM users WHERE id = 1")
        later = producer.send(up(1, 5))
        drain_all(worker, "PLAYER")
        assert later.result(1).error == "database_error"
    assert query(application_engine, "SELECT count(*) FROM specialization_progress") == [(0,)]


def cascading(engine: Engine) -> None:
    """An application's users, progress and licenses, which go with their user."""
    application.users.create(engine)
    execute(
        engine,
        "CREATE TABLE user_licenses (id serial PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE,"
        " specialization_type varchar(20) NOT NULL, current_level int NOT NULL, max_achieved_level int,"
        " started_at timestamp NOT NULL, last_advanced_at timestamp, UNIQUE (user_id, specialization_type))",
        "CREATE TABLE specialization_progress (id serial PRIMARY KEY,"
        " student_id int NOT NULL REFERENCES users ON DELETE CASCADE, specialization_id varchar(20) NOT NULL,"
        " current_level int NOT NULL, total_xp int, completed_sessions int, completed_projects int,"
        " theory_hours_completed int, practice_hours_completed int, last_activity timestamp, created_at timestamp,"
        " updated_at timestamp, UNIQUE (student_id, specialization_id))",
        "INSERT INTO users (id) VALUES (1), (2)",
    )


def test_role_with_the_documented_grants_cancels_adopts_and_forgets(world: World, levelq_here: Levelq) -> None:
    role = "levelq_operator"
    with world.engine.connect() as connection:
        users = connection.exec_driver_sql("SELECT to_regclass('users') IS NOT NULL").scalar_one()
    execute(world.engine, *statements("An operator", users=users))
    url = str(world.settings.database_url).replace("postgres@", f"{role}@")
    try:
        live(world)
        world.send(up(7), up(USER))
        push_raw(world.worker, "PLAYER", 7, b"malformed")
        with world.engine.begin() as connection:
            Outbox(connection, settings=world.settings).send(up(7))
        code, out, err = levelq_here("cancel", 7, "PLAYER", "--yes", LEVELQ_DATABASE_URL=url)
        assert (code, out.splitlines()[-1], err) == (0, "2 commands cancelled, 1 malformed quarantined", "")
        assert levelq_here("purge", "--yes", LEVELQ_DATABASE_URL=url)[0] == 0
        execute(world.engine, "UPDATE user_licenses SET current_level = current_level + 1")
        assert levelq_here("adopt", "--yes", LEVELQ_DATABASE_URL=url)[0] == 0
        assert levelq_here("forget", USER, "--yes", LEVELQ_DATABASE_URL=url)[0::2] == (0, "")
    finally:
        execute(world.engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


OLDER = (
    "ALTER TABLE license_progressions DROP CONSTRAINT license_progressions_user_license_id_fkey,"
    " ADD CONSTRAINT license_progressions_user_license_id_fkey"
    " FOREIGN KEY (user_license_id) REFERENCES user_licenses (id)"
)


def test_application_deletes_a_user_whose_licenses_have_progressions(
    settings: Settings, redis: Redis, engines: Callable[..., Engine], blank_database_url: str, levelq_here: Levelq
) -> None:
    engine = engines(blank_database_url)
    cascading(engine)
    upgrade(engine)
    with Session(engine) as mine:
        for user in (1, 2):
            assert level_up_atomic(mine, user, "PLAYER", 3000)["success"]
    execute(engine, "DELETE FROM users WHERE id = 1")
    assert query(engine, "SELECT count(*) FROM license_progressions") == [(1,)]
    theirs = settings.model_copy(update={"database_url": blank_database_url})
    assert verify(engine, redis, theirs, Options()).violations > 0  # the rows were not levelq's to lose
    assert verify(engine, redis, theirs, Options(foreign_writes=True)).violations == 0
    assert levelq_here("forget", 1, "--yes", LEVELQ_DATABASE_URL=blank_database_url)[0] == 0
    assert verify(engine, redis, theirs, Options()).violations == 0


@pytest.mark.parametrize("kind", ["own", "cascading"])
def test_older_foreign_key_is_reported_and_its_remedy_lets_the_user_go(
    kind: str, engines: Callable[..., Engine], blank_database_url: str
) -> None:
    engine = engines(blank_database_url)
    if kind == "cascading":
        cascading(engine)
    upgrade(engine)
    with Session(engine) as mine:
        assert level_up_atomic(mine, 1, "PLAYER", 3000)["success"]
    execute(engine, OLDER)
    delete = "DELETE FROM users WHERE id = 1" if kind == "cascading" else "DELETE FROM user_licenses"
    (finding,) = findings(engine)
    assert (finding.severity, "no ON DELETE CASCADE" in finding.problem) == ("warning", True)
    with pytest.raises(IntegrityError, match="license_progressions"):
        execute(engine, delete)
    fix(engine, [finding])
    assert findings(engine) == []
    execute(engine, delete)
    assert query(engine, "SELECT count(*) FROM license_progressions") == [(0,)]


@pytest.mark.parametrize("by_script", [False, True])
def test_database_without_the_audit_is_reported_and_an_upgrade_adds_it(own_engine: Engine, by_script: bool) -> None:
    execute(own_engine, "DROP TABLE levelq_audit")
    (finding,) = findings(own_engine)
    assert (finding.problem, finding.fix) == ("absent: table levelq_audit", ("levelq db upgrade",))
    if by_script:
        script = upgrade_sql(own_engine)
        assert "CREATE TABLE levelq_audit" in script and script.count("CREATE TABLE") == 1
        execute(own_engine, script)
        assert upgrade_sql(own_engine) == ""
    else:
        fix(own_engine, [finding])
    assert findings(own_engine) == []


def test_lanes_of_every_shard_and_generation_are_emptied(world: World, levelq_here: Levelq) -> None:
    levelq_here("shards", "PLAYER", 4, "--no-wait")
    for user in range(1, 9):
        world.producer.send(up(user))
    for user in range(1, 9):
        assert levelq_here("forget", user, "--yes")[0] == 0
    assert world.redis.keys("levelq:{PLAYER:*:lane:*") == []
    assert query(world.engine, "SELECT count(*), max(user_id) FROM levelq_ledger") == [(8, 0)]
