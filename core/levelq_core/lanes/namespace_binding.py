"""The binding of a namespace to one database, kept in `<namespace>:database`.

Two deployments that share a Redis by mistake would apply each other's commands. So the first worker binds the
namespace to its database, and commands that would combine these lanes with another database are refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Self
from uuid import UUID

from levelq_core.errors import ConfigurationError, WrongDatabase
from levelq_core.untrusted_text import printable

from .client import Lanes

_MOST_NAME = 300  # characters of a name that any program may have written
_SHORT = 8  # hexadecimal digits of an identity in a message


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """What identifies a database.

    `identity`: the random id of levelq's tables (levelq_identity), which a copy of the database shares. `system`: the
    system identifier of the PostgreSQL cluster, equal on its replicas; None if this role may not read it. `oid`: the
    database's number in the cluster. `name` and `server` (host and port) are for people.
    """

    identity: UUID
    system: str | None
    oid: int
    name: str
    server: str

    def same_as(self, other: DatabaseIdentity) -> bool:
        """Whether both are one database, under any host and name."""
        systems = {self.system, other.system} - {None}
        return (self.identity, self.oid) == (other.identity, other.oid) and len(systems) < 2

    def __str__(self) -> str:
        whole = f"{self.identity} {self.system} {self.oid}"
        return f"{self.name} on {self.server} (identity {sha256(whole.encode()).hexdigest()[:_SHORT]})"

    def encode(self) -> bytes:
        """As Redis keeps it, in JSON."""
        return json.dumps(asdict(self) | {"identity": str(self.identity)}).encode()

    @classmethod
    def decode(cls, raw: bytes, key: str) -> Self:
        """Read what `encode` gives; `key` is the key it came from. Raises ConfigurationError."""
        try:
            found = json.loads(raw)
            system = None if found["system"] is None else printable(str(found["system"]), _MOST_NAME)
            names = printable(str(found["name"]), _MOST_NAME), printable(str(found["server"]), _MOST_NAME)
            return cls(UUID(found["identity"]), system, int(found["oid"]), *names)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigurationError(
                f"{key}: expected the database that a worker wrote there, got {raw[:80]!r}; "
                "`levelq namespace rebind` replaces it",
                setting=key,
                value=raw,
            ) from None


def bound_to(lanes: Lanes) -> DatabaseIdentity | None:
    """The database that the namespace is bound to, if any. Raises RedisError, or ConfigurationError if unreadable."""
    raw = lanes.bound()
    return None if raw is None else DatabaseIdentity.decode(raw, lanes.keys.database)


def bind(lanes: Lanes, mine: DatabaseIdentity) -> None:
    """Bind the namespace to this database if it is bound to none.

    Raises WrongDatabase if it is bound to another, RedisError, ConfigurationError.
    """
    raw = lanes.bound()
    if raw is None:
        raw = lanes.bind(mine.encode())
    require_same(lanes.keys.namespace, DatabaseIdentity.decode(raw, lanes.keys.database), mine)


def require_same(namespace: str, bound: DatabaseIdentity, mine: DatabaseIdentity) -> None:
    """Raise WrongDatabase, which names both, unless they are one database."""
    if not bound.same_as(mine):
        raise WrongDatabase(
            f"LEVELQ_NAMESPACE {namespace} is bound to the database {bound}, and LEVELQ_DATABASE_URL names {mine}: "
            "give this deployment a namespace of its own, or run `levelq namespace rebind` if this database "
            "replaces the other",
            namespace=namespace,
            bound_to=str(bound),
            this_database=str(mine),
        )
