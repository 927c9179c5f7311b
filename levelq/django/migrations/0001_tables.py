"""`manage.py migrate` does what `levelq db upgrade` does."""

from typing import Any

from django.db import DEFAULT_DB_ALIAS, migrations

from levelq.django import levelq_settings


def create_tables(_apps: Any, schema_editor: Any) -> None:
    """Create the tables that are missing, on a connection of its own. Raises ImportError without levelq[worker]."""
    if schema_editor.connection.alias != DEFAULT_DB_ALIAS:
        return
    try:
        from levelq_core.database.engine import engine_for  # noqa: PLC0415
        from levelq_core.database.migrations import upgrade  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError("levelq's tables need the database libraries: pip install 'levelq[worker]'") from error
    engine = engine_for(levelq_settings(), name="levelq migration")
    upgrade(engine)
    engine.dispose()


class Migration(migrations.Migration):  # type: ignore[misc]
    """Backwards it does nothing: the tables hold the application's data."""

    atomic = False
    operations = (migrations.RunPython(create_tables, migrations.RunPython.noop),)
