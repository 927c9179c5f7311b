"""A trigger of another application, after which the rows differ from the ledger."""

import psycopg

from levelq_core import Settings

_TRIGGER = """
    CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.total_xp := NEW.total_xp + 1; RETURN NEW; END $$;
    CREATE TRIGGER meddle BEFORE UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION meddle()
"""


def add_foreign_trigger(settings: Settings) -> None:
    """Each update of a progress row adds one to its total."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as database:
        database.execute(_TRIGGER)
