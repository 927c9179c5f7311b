"""PostgreSQL: the tables as they are, connections, error classes, binary values, migrations."""
