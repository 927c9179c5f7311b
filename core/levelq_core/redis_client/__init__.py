"""How levelq connects to Redis."""
