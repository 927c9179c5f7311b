"""Fixtures live in tests/fixtures, one room each; this file only names them."""

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.databases", "tests.fixtures.processes"]
