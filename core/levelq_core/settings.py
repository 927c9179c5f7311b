"""The settings: built once, validated, frozen, passed down. The one module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property, lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .domain.catalog import Catalog, is_json
from .errors import CatalogError, ConfigurationError, InvalidArgument, describe
from .keys import Keys
from .redis_client.encryption import is_loopback
from .redis_client.url_options import MISREAD
from .redis_client.urls import CLUSTER_SCHEMES, SENTINEL_SCHEMES, SERVER_SCHEMES, check_url

DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")


def _scheme_of(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # its words quote what may be a password
        raise ValueError(f"cannot be read as a URL, {MISREAD}") from None


def _scheme(*allowed: str) -> AfterValidator:
    def check(url: str) -> str:
        if _scheme_of(url) not in allowed:
            raise ValueError(f"expected a URL that begins with {' or '.join(f'{s}://' for s in allowed)}")
        return url

    return AfterValidator(check)


def _readable(url: str) -> str:
    check_url(url)
    return url


def _for_rq(url: str) -> str:
    if _scheme_of(url) in CLUSTER_SCHEMES:
        raise ValueError("expected one server, which RQ needs for its own keys, not a cluster")
    return url


def _catalog(given: Any) -> Any:
    """Of what may be a catalog, only a file is left for later. JSON of the environment may be parsed already."""
    if isinstance(given, Catalog | Path | None) or (isinstance(given, str) and not is_json(given)):
        return given
    if not isinstance(given, str | Mapping):
        raise ValueError("expected a Catalog, or the path of a TOML or JSON file")
    try:
        return Catalog.from_json(given) if isinstance(given, str) else Catalog.of(given)
    except CatalogError as error:
        own = vars(error) | {"setting": "LEVELQ_CATALOG", "reasons": ()}
        raise CatalogError(f"LEVELQ_CATALOG: {error}", **own) from error.__cause__


def _file(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected an absolute path, so that it is the same file wherever the command starts")
    return path


def _browser_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or url != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("expected https://host or https://host:port, without a path")
    if "@" in url or not parts.netloc.isascii() or (parts.scheme == "http" and not is_loopback(parts.hostname)):
        raise ValueError("expected https://, because logins cross a network; http:// only for localhost")
    return url.lower()


def _networks(text: str) -> str:
    for one in _listed(text):
        try:
            trusts_all = ip_network(one).prefixlen == 0
        except ValueError:
            trusts_all = True
        if trusts_all:
            raise ValueError("expected addresses or networks, such as 10.0.0.5, 10.1.0.0/16")
    return text


def _names(text: str) -> str:
    if not all(name.isprintable() and 0 < len(name) <= MOST_NAME for name in _listed(text)):
        raise ValueError(f"expected names separated by commas, each of 1 to {MOST_NAME} printable characters")
    return text


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")]


def _lower(given: Any) -> Any:
    return given.lower() if isinstance(given, str) else given


def _plain_catalog(catalog: Catalog | Path) -> str:
    return catalog.to_json() if isinstance(catalog, Catalog) else str(catalog)


LanesUrl = Annotated[str, _scheme(*SERVER_SCHEMES, *SENTINEL_SCHEMES, *CLUSTER_SCHEMES), AfterValidator(_readable)]
QueueUrl = Annotated[
    str, AfterValidator(_for_rq), _scheme(*SERVER_SCHEMES, *SENTINEL_SCHEMES), AfterValidator(_readable)
]
DatabaseUrl = Annotated[str, _scheme(*DATABASE_SCHEMES)]
Durability = Literal["memory", "fsync", "replicated"]
DriftPolicy = Literal["report", "progress", "license", "higher"]
Seconds = Annotated[float, BeforeValidator(lambda given: 0 if given in (None, "none") else given)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
CatalogSource = Annotated[
    Catalog | Path | None, BeforeValidator(_catalog), PlainSerializer(_plain_catalog, when_used="json-unless-none")
]
BrowserUrl = Annotated[str, AfterValidator(_browser_url)]
Names = Annotated[str, AfterValidator(_names)]
MOST_NAME = 100  # characters of a login's name
MOST_CATALOG = 100_000  # bytes of a catalog in a variable; Linux allows 128 KiB for one


class Settings(BaseSettings):
    """All of levelq's settings, each read from LEVELQ_<NAME> unless given. Times are in seconds.

    Every limit of one transaction follows from `claim_seconds`, so that always
    lock < statement < transaction < claim, whatever the claim is set to.
    """

    model_config = SettingsConfigDict(
        env_prefix="LEVELQ_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        defer_build=True,
        arbitrary_types_allowed=True,
    )

    namespace: str = Field("levelq", pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    redis_url: LanesUrl = Field("redis://localhost:6379/0", repr=False)
    rq_url: QueueUrl | None = Field(None, repr=False)
    database_url: DatabaseUrl | None = Field(None, repr=False)
    listen_url: DatabaseUrl | None = Field(None, repr=False)
    notify: bool = False
    prepared_statements: bool = True
    catalog: CatalogSource = None
    claim_seconds: float = Field(10.0, ge=0.5, le=3600)
    sweep_seconds: float = Field(2.0, ge=0.1, le=600)
    slice_seconds: float = Field(1.0, ge=0.1, le=600)
    redis_seconds: float = Field(2.0, ge=0.05, le=60)
    reply_seconds: int = Field(60, ge=1, le=86_400)
    durability: Durability = "memory"
    durable_seconds: float | None = Field(None, ge=0.001, le=60)
    appendfsync: Literal["always"] | None = None
    drift_seconds: Seconds = Field(3600.0, ge=0, le=2_592_000)
    drift_policy: DriftPolicy = "report"
    batch_commands: int = Field(5_000, ge=1, le=100_000)
    batch_seconds: float = Field(0.15, ge=0.01, le=600)
    batch_lanes: int = Field(1_000, ge=1, le=20_000)
    batch_bytes: int = Field(4 * 2**20, ge=2**10, le=2**28)
    lane_commands: int = Field(1_000, ge=1, le=100_000)
    lane_limit: int = Field(200_000, ge=1, le=10_000_000)
    partition_limit: int = Field(2_000_000, ge=1, le=1_000_000_000)
    payload_limit: int = Field(4_096, ge=128, le=2**20)
    processes: int = Field(1, ge=1, le=256)
    shards: int = Field(1, ge=1, le=4_096)
    metrics_port: int | None = Field(None, ge=1, le=65_535)
    metrics_host: str = Field("127.0.0.1", pattern=r"^[A-Za-z0-9._:%-]{1,255}$")
    console_url: BrowserUrl | None = None
    console_logins: Annotated[Path, AfterValidator(_file)] | None = None
    console_login_header: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")
    console_proxies: Annotated[str, AfterValidator(_networks)] | None = None
    console_operators: Names | None = None
    log_format: Literal["text", "json"] = "text"
    log_level: LogLevel = "warning"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rq_url is None and urlsplit(self.redis_url).scheme in CLUSTER_SCHEMES:
            where = "redis://host:port/0 of a server beside the cluster of LEVELQ_REDIS_URL"
            raise ValueError(f"LEVELQ_RQ_URL: not set, expected {where}: RQ keeps its own keys on one server")
        if self.redis_seconds >= self.claim_seconds:
            limit = f"LEVELQ_CLAIM_SECONDS ({self.claim_seconds:g}), or a claim ends during one call"
            raise ValueError(f"LEVELQ_REDIS_SECONDS: expected less than {limit}, got {self.redis_seconds:g}")
        # Redis looks ten times a second whose wait is over; an answer that comes later than the call ends is lost.
        if self.durable_seconds is not None and self.durable_seconds > self.redis_seconds - 0.1:
            limit = f"0.1 less than LEVELQ_REDIS_SECONDS ({self.redis_seconds:g}), or a call ends during the wait"
            raise ValueError(f"LEVELQ_DURABLE_SECONDS: expected at least {limit}, got {self.durable_seconds:g}")
        return self

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Build the settings, or raise ConfigurationError naming the variable and what it must be."""
        try:
            return cls(**given)
        except ValidationError as error:
            lines = []
            for detail in error.errors(include_url=False):
                message = detail["msg"].removeprefix("Value error, ")
                if not detail["loc"]:
                    lines.append(message)
                    continue
                name = f"LEVELQ_{str(detail['loc'][0]).upper()}"
                # What is given for a URL may hold a password.
                got = "" if name.endswith("_URL") else describe(detail).rpartition(", got ")[2]
                lines.append(f"{name}: {message}{got and f', got {got}'}")
            raise ConfigurationError("; ".join(lines), setting=lines[0].partition(":")[0], reasons=lines) from None

    @classmethod
    def of(cls, given: Settings | None) -> Settings:
        """These settings, or for None those of the environment. Raises InvalidArgument for anything else, as a URL."""
        if given is None:
            return cls.load()
        if not isinstance(given, Settings):
            message = f"settings: expected a levelq.Settings, got a {type(given).__name__}; a URL is for from_url"
            raise InvalidArgument(message, field="settings")  # without the value, which may hold a password
        return given

    def environment(self) -> dict[str, str]:
        """These settings as LEVELQ_ variables, for a child process that needs the same.

        A catalog that was given as an object goes as JSON. Raises ConfigurationError if that is too long.
        """
        given = self.model_dump(mode="json", exclude_none=True)
        if len(given.get("catalog", "")) > MOST_CATALOG:
            what = f"expected at most {MOST_CATALOG:,} bytes of JSON in a variable, got {len(given['catalog']):,}"
            message = f"LEVELQ_CATALOG: {what}; write it to a file, and give the path"
            raise ConfigurationError(message, setting="LEVELQ_CATALOG")
        return {f"LEVELQ_{name.upper()}": str(value) for name, value in given.items()}

    @property
    def queue_url(self) -> str:
        """Where RQ keeps its own keys."""
        return self.rq_url or self.redis_url

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL for SQLAlchemy: plain postgresql:// means psycopg 3. Raises ConfigurationError if unset."""
        if self.database_url is None:
            message = "LEVELQ_DATABASE_URL: not set, expected postgresql://user@host/database"
            raise ConfigurationError(message, setting="LEVELQ_DATABASE_URL")
        return "postgresql+psycopg://" + self.database_url.partition("://")[2]

    @property
    def keys(self) -> Keys:
        """The names of the namespace's Redis keys and RQ queues."""
        return Keys(self.namespace)

    @cached_property
    def tracks(self) -> Catalog:
        """The catalog these settings name. Raises CatalogError."""
        return Catalog.load(self.catalog)

    @property
    def durable_ms(self) -> int:
        """How long a send waits for its durability; 0 would mean for ever to Redis."""
        return max(1, int(1000 * (self.durable_seconds or self.redis_seconds / 2)))

    @property
    def lock_ms(self) -> int:
        """How long one transaction waits for a row that another transaction holds."""
        return int(self.claim_seconds * 100)

    @property
    def statement_ms(self) -> int:
        """How long one statement of a batch may take."""
        return int(self.claim_seconds * 400)

    @property
    def transaction_ms(self) -> int:
        """How long a whole batch may take: well before its claims run out."""
        return int(self.claim_seconds * 600)


def default_catalog() -> Catalog:
    """The catalog of LEVELQ_CATALOG, for direct calls without settings of their own. Raises CatalogError.

    Read once for each value: building all settings for each call would be a sixth of the call's time.
    """
    return _catalog_at(os.environ.get("LEVELQ_CATALOG") or None)


@lru_cache(maxsize=8)
def _catalog_at(source: str | None) -> Catalog:
    return Catalog.load(source)


def servers_for_tests() -> tuple[str | None, str | None]:
    """LEVELQ_TEST_REDIS_URL and LEVELQ_TEST_DATABASE_URL: servers for an application's tests; None where unset."""
    redis_url, database_url = map(os.environ.get, ("LEVELQ_TEST_REDIS_URL", "LEVELQ_TEST_DATABASE_URL"))
    return redis_url or None, database_url or None
