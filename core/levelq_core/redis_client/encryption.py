"""Whether connections over a network are encrypted and verified, and why a certificate was refused."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from .urls import RedisTarget

_UNVERIFIED = re.compile(
    r"certificate verify failed|CERTIFICATE_VERIFY_FAILED|server certificate for .* does not match host name"
    r"|root certificate file .* does not exist"
)

_FALSE = ("0", "F", "FALSE", "N", "NO")  # as redis-py reads them


def is_loopback(host: str) -> bool:
    """Whether a host, or the folder of a socket, is this machine, by its name alone: there is no DNS query."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.startswith("/") or host in ("", "localhost")


def redis_exposures(url: str) -> Iterator[tuple[str, str]]:
    """Yield what is unsafe about the connections of a Redis URL, each with the remedy."""
    parts = urlsplit(url)
    scheme = parts.scheme
    target = RedisTarget.read(url)
    hosts = [address.host for address in target.addresses] if target else [parts.hostname or "localhost"]
    options = parse_qs(parts.query)
    for host in (host for host in hosts if scheme.startswith("redis") and not is_loopback(host)):
        if scheme.partition("+")[0] == "redis":
            yield f"{scheme}:// to {host} is not encrypted", f"use {scheme.replace('redis', 'rediss', 1)}://"
        elif options.get("ssl_cert_reqs", ["required"])[-1] == "none":
            yield f"with ssl_cert_reqs=none it is not verified that the server is {host}", "leave ssl_cert_reqs out"
        elif options.get("ssl_check_hostname", ["true"])[-1].upper() in _FALSE:
            yield f"with ssl_check_hostname off any certificate of the CA is taken for {host}", "leave it out"


def unverified(error: str, setting: str, option: str) -> str:
    """Advice for an error about a certificate that could not be verified; "" for other errors.

    `option`: the URL's option that names the file of the CA.
    """
    if not _UNVERIFIED.search(error):
        return ""
    return (
        f"; the server's TLS certificate cannot be verified: give {setting} {option}=/path/to/ca.pem of the CA that "
        "signed it, and a host that the certificate names"
    )
