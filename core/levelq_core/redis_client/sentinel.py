"""The primary that Sentinels name, as a client: each new connection asks them for its address."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import sentinel as async_sentinel
from redis.connection import SSLConnection, parse_url
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from .process_client import ProcessClient
from .urls import RedisTarget, url_and_options

# redis-py has no types for these.
_SENTINEL: Any = Sentinel
_ASYNC_SENTINEL: Any = async_sentinel.Sentinel
_POOL: Any = SentinelConnectionPool
_parse_url: Any = parse_url
_FOR_SENTINELS = ("socket_timeout", "socket_connect_timeout", "retry", "retry_on_error", "max_connections")


class _Sentinels(_SENTINEL):  # type: ignore[misc]
    """redis-py's, with errors of one line: its own message shows every option of every client."""

    def discover_master(self, service_name: str) -> Any:
        """The address of the primary. Raises MasterNotFoundError."""
        try:
            return super().discover_master(service_name)
        except MasterNotFoundError:
            raise MasterNotFoundError(_unknown(self, service_name)) from None


class _AsyncSentinels(_ASYNC_SENTINEL):  # type: ignore[misc]
    """The same for asyncio."""

    async def discover_master(self, service_name: str) -> Any:
        """The address of the primary. Raises MasterNotFoundError."""
        try:
            return await super().discover_master(service_name)
        except async_sentinel.MasterNotFoundError:
            raise async_sentinel.MasterNotFoundError(_unknown(self, service_name)) from None


def _unknown(sentinels: Any, name: str) -> str:
    return f"no Sentinel answers that knows a primary {name!r} which is up; asked {', '.join(sentinels.asked)}"


class Primary(ProcessClient):
    """A client for threads, which closes the clients of the Sentinels, too."""

    def close(self) -> None:
        """Close the connections."""
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


class AsyncPrimary(AsyncRedis):
    """The same for asyncio."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections."""
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def primary_of(target: RedisTarget, options: dict[str, Any]) -> Redis:
    """A client of the primary; `options` are redis-py's."""

    def pool() -> Any:
        sentinels = _sentinels_of(_Sentinels, target, options)
        return _POOL(target.service, sentinels, is_master=True, **_options_of(target), **options)

    return Primary(pool)


def async_primary_of(target: RedisTarget, options: dict[str, Any]) -> AsyncRedis:
    """The same for asyncio."""
    sentinels = _sentinels_of(_AsyncSentinels, target, options)
    primary: AsyncRedis = sentinels.master_for(
        target.service, redis_class=AsyncPrimary, **_options_of(target), **options
    )
    return primary


def _sentinels_of(kind: type[Any], target: RedisTarget, options: dict[str, Any]) -> Any:
    """The clients of the Sentinels, with the same TLS and timeouts as the primary."""
    shared = {name: options[name] for name in _FOR_SENTINELS}
    tls = {name: value for name, value in _options_of(target).items() if name == "ssl" or name.startswith("ssl_")}
    sentinels = kind(target.addresses, sentinel_kwargs=tls | target.for_sentinels | shared)
    sentinels.asked = [str(address) for address in target.addresses]
    return sentinels


def _options_of(target: RedisTarget) -> dict[str, Any]:
    """The options of redis-py in the URL, without the address, which the Sentinels give."""
    url, given = url_and_options(target.url_of_primary)
    options: dict[str, Any] = given | _parse_url(url)
    tls = options.pop("connection_class", None) is SSLConnection
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    return options | ({"ssl": True} if tls else {})
