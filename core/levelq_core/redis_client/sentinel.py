"""The primary that Sentinels name, as a client: each new connection asks them who it is."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import sentinel as async_sentinel
from redis.connection import SSLConnection, parse_url
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from .process_client import ProcessClient
from .urls import Address, RedisTarget, url_and_options

# redis-py has no types for these.
_SENTINEL: Any = Sentinel
_ASYNC_SENTINEL: Any = async_sentinel.Sentinel
_POOL: Any = SentinelConnectionPool
_parse_url: Any = parse_url


class Sentinels(_SENTINEL):  # type: ignore[misc]
    """redis-py's, with an error of one line: its own shows every option of every client."""

    def discover_master(self, service_name: str) -> Any:
        """The primary's address. Raises MasterNotFoundError."""
        try:
            return super().discover_master(service_name)
        except MasterNotFoundError:
            raise MasterNotFoundError(_unknown(self.addresses, service_name)) from None


class AsyncSentinels(_ASYNC_SENTINEL):  # type: ignore[misc]
    """The same for asyncio."""

    async def discover_master(self, service_name: str) -> Any:
        """The primary's address. Raises MasterNotFoundError."""
        try:
            return await super().discover_master(service_name)
        except async_sentinel.MasterNotFoundError:
            raise async_sentinel.MasterNotFoundError(_unknown(self.addresses, service_name)) from None


def _unknown(addresses: list[Address], name: str) -> str:
    asked = ", ".join(map(str, addresses))
    return f"no Sentinel answers that knows a primary {name!r} which is up; asked {asked}"


class Primary(ProcessClient):
    """The client for threads, which closes those of the Sentinels, too."""

    def close(self) -> None:
        """Give the connections back."""
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


class AsyncPrimary(AsyncRedis):
    """The same for asyncio."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Give the connections back."""
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def primary_of(place: RedisTarget, to_sentinels: dict[str, Any], options: dict[str, Any]) -> Redis:
    """A client of the primary; `to_sentinels` and `options` are redis-py's."""

    def pool() -> Any:
        sentinel: Any = Sentinels(place.addresses, sentinel_kwargs=_tls(place) | place.for_sentinels | to_sentinels)
        sentinel.addresses = place.addresses
        return _POOL(place.service, sentinel, is_master=True, **_parsed(place), **options)

    return Primary(pool)


def async_primary_of(place: RedisTarget, to_sentinels: dict[str, Any], options: dict[str, Any]) -> AsyncRedis:
    """The same for asyncio."""
    sentinel: Any = AsyncSentinels(place.addresses, sentinel_kwargs=_tls(place) | place.for_sentinels | to_sentinels)
    sentinel.addresses = place.addresses
    primary: AsyncRedis = sentinel.master_for(place.service, redis_class=AsyncPrimary, **_parsed(place), **options)
    return primary


def _tls(place: RedisTarget) -> dict[str, Any]:
    """What the connections to the Sentinels need for TLS: the same as those to the primary."""
    return {name: value for name, value in _parsed(place).items() if name == "ssl" or name.startswith("ssl_")}


def _parsed(place: RedisTarget) -> dict[str, Any]:
    """redis-py's options for what the URL says beside the address, which the Sentinels give."""
    url, given = url_and_options(place.url_of_primary)
    options: dict[str, Any] = given | _parse_url(url)
    tls = options.pop("connection_class", None) is SSLConnection
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    return options | ({"ssl": True} if tls else {})
