"""How levelq connects to PostgreSQL."""
