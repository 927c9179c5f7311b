"""The statements that write into the outbox, for any driver: plain SQL with `:name` for each parameter.

The application's connection runs them, so they rely on no driver's types: ids and payloads travel as ASCII text.
Each returns rows. This module imports no database library, because a Django application may have no SQLAlchemy.
"""

from __future__ import annotations

CHANNEL = "levelq_outbox"  # of NOTIFY; the payload is a specialization

_WRITE = """
    INSERT INTO levelq_outbox (command_id, user_id, specialization, payload)
    SELECT k.command_id, k.user_id, k.specialization, decode(k.payload, 'hex')
    FROM unnest(CAST(:command_ids AS uuid[]), CAST(:user_ids AS bigint[]), CAST(:specializations AS text[]),
                CAST(:payloads AS text[])) WITH ORDINALITY AS k(command_id, user_id, specialization, payload, n)
    ORDER BY k.n
    ON CONFLICT (command_id) DO NOTHING
    RETURNING command_id, specialization
"""

# Write commands into the outbox in their order; an id that is there already is left as it is.
INSERT = f"WITH written AS ({_WRITE}) SELECT CAST(command_id AS text) FROM written"

# The same, and notify the relays at the commit. The server sends equal notifications once.
INSERT_AND_NOTIFY = f"""
    WITH written AS ({_WRITE}) SELECT CAST(command_id AS text), pg_notify('{CHANNEL}', specialization) FROM written
"""

# What the outbox holds under these ids.
FIND = """
    SELECT CAST(command_id AS text), encode(payload, 'hex') FROM levelq_outbox
    WHERE command_id = ANY(CAST(:command_ids AS uuid[]))
"""

# Delete rows that this transaction has just written.
WITHDRAW = """
    DELETE FROM levelq_outbox WHERE command_id = ANY(CAST(:command_ids AS uuid[])) RETURNING CAST(command_id AS text)
"""
