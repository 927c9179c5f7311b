"""The container files as their programs would read them."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOTENV = {"POSTGRES_PASSWORD": "postgressecret", "VALKEY_PASSWORD": "valkeysecret", "LOAD_COMMANDS": "3"}
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


def filled(text: str, given: Mapping[str, str]) -> str:
    """Compose's interpolation, of the forms the file uses: $$, ${NAME:-default}, ${NAME:?what is missing}."""

    def value(found: re.Match[str]) -> str:
        dollar, name, form, rest = found.groups()
        if dollar:
            return "$"
        return given.get(name) or rest if form == "-" else given[name]

    return VARIABLE.sub(value, text)


def resolved(node: Any) -> Any:
    """The document with every variable filled in, after parsing, as compose does it."""
    if isinstance(node, dict):
        return {key: resolved(value) for key, value in node.items()}
    if isinstance(node, list):
        return [resolved(value) for value in node]
    return filled(node, DOTENV) if isinstance(node, str) else node


@cache
def compose() -> dict[str, Any]:
    """The compose file, its variables filled in from DOTENV."""
    return dict(resolved(yaml.safe_load(COMPOSE.read_text())))


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions by build stage, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, rest.strip()))
    return found


def pyproject() -> dict[str, Any]:
    """The project's own description."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def seconds(text: str) -> float:
    """A duration as the compose file writes it."""
    assert text.endswith("s")
    return float(text[:-1])
