"""Read and show the URLs of Redis: one server (redis, rediss, unix), or a service that Sentinels watch.

    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db][?option=value&...]

User and password are those of Redis. `sentinel_username` and `sentinel_password` are those of the Sentinels. With the
scheme `rediss+sentinel` all connections use TLS. No message quotes a part of a URL that may hold a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEAST_TIMEOUT_S: Final = 2.0
"""The shortest socket timeout, in seconds: a reader lets Redis block for one second (reading.reader.BLOCK_MS)."""
MOST_TIMEOUT_S: Final = 86_400.0
"""The longest socket timeout, in seconds: one day."""
SENTINEL_PORT: Final = 26_379
"""The default port of a Sentinel."""
_SENTINEL: Final = re.compile(r"(rediss?)\+sentinel://")
_QUERY_PASSWORD: Final = re.compile(r"(?i)(password=)[^&]*")
_OWN: Final = frozenset(
    {
        "decode_responses", "encoding", "encoding_errors", "max_connections", "retry", "retry_on_error",
        "retry_on_timeout", "legacy_responses",
    }
)  # fmt: skip
"""Options that voxspool sets itself. A URL may have them, for other programs; they have no effect here."""
_PLACE: Final = frozenset({"host", "port", "path", "connection_class"})
_SENTINEL_LOGIN: Final = {"sentinel_username": "username", "sentinel_password": "password"}
_TLS: Final = frozenset(
    {
        "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
        "ssl_ciphers", "ssl_exclude_verify_flags", "ssl_include_verify_flags", "ssl_keyfile", "ssl_min_version",
        "ssl_password",
    }
)  # fmt: skip
_NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    "db": (0, 2**31 - 1),
    "health_check_interval": (0, MOST_TIMEOUT_S),
    "protocol": (2, 3),
    "socket_connect_timeout": (0.001, MOST_TIMEOUT_S),
    "socket_read_size": (1, 2**30),
    "socket_timeout": (LEAST_TIMEOUT_S, MOST_TIMEOUT_S),
}
"""Option -> the least and the greatest value."""
_WHY: Final = {"socket_timeout": ", since a reader lets Redis block for 1 s"}
_OTHERS: Final = frozenset({"username", "password", "client_name", "socket_keepalive"})


class UrlError(ValueError):
    """A URL that cannot be used. The message may be shown: it holds no password."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What a URL says, as keyword arguments of redis-py."""

    options: dict[str, Any]
    """Those of the connections to Redis."""
    service: str = ""
    """The name of the service at the Sentinels; empty: the URL names one server."""
    sentinels: list[tuple[str, int]] = field(default_factory=list)
    """The addresses of the Sentinels."""
    sentinel_options: dict[str, Any] = field(default_factory=dict)
    """Those of the connections to Sentinels."""
    tls: bool = False
    """True if connections to a Sentinel's service use TLS."""


def names_service(url: str) -> bool:
    """Return whether a URL names a service of Sentinels."""
    return _SENTINEL.match(url) is not None


def read(url: str, parse: Callable[[str], Mapping[str, Any]]) -> RedisUrl:
    """Return what a URL says. `parse` is redis-py's `parse_url`, the plain or the asyncio one.

    Raises UrlError, and ValueError for a text that is no URL: its message must not be shown.
    """
    if found := _SENTINEL.match(url):
        return _read_service(url, found[1], parse)
    parts = urlsplit(url)
    if parts.scheme != "unix":
        _check_db(parts.path.replace("/", ""))
    options = _usable(parse(url), parts.query)
    if parts.scheme != "rediss" and (found_tls := sorted(_TLS & options.keys())):
        raise UrlError(f"its option {found_tls[0]} is for TLS; write rediss:// for {parts.scheme}://")
    return RedisUrl(options)


def _read_service(url: str, scheme: str, parse: Callable[[str], Mapping[str, Any]]) -> RedisUrl:
    """Return what the URL of a Sentinel's service says."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise UrlError(f"it names no service of the Sentinels: {scheme}+sentinel://HOST:{SENTINEL_PORT}/SERVICE/0")
    _check_db(db)
    given = dict(parse(f"{scheme}://{login}{at}redis/{db or 0}?{parts.query}"))
    sentinel_login = {name: given.pop(option) for option, name in _SENTINEL_LOGIN.items() if option in given}
    usable = _usable(given, parts.query)
    options = {name: value for name, value in usable.items() if name not in _PLACE}
    tls = scheme == "rediss"
    shared = {name: value for name, value in options.items() if name in _TLS or name == "protocol"}
    sentinel_options = shared | sentinel_login | ({"ssl": True} if tls else {})
    return RedisUrl(options, service, [_address(host) for host in hosts.split(",")], sentinel_options, tls)


def _address(text: str) -> tuple[str, int]:
    """Return the host and the port of a Sentinel."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise UrlError(f"a Sentinel has no host; write them like HOST:{SENTINEL_PORT},HOST:{SENTINEL_PORT}")
    return parts.hostname, parts.port or SENTINEL_PORT


def _check_db(text: str) -> None:
    """Raise UrlError if the path of a URL names no database: redis-py would use database 0."""
    if text and not text.isdecimal():
        raise UrlError("its path must be the number of a database, such as /0")


def _usable(given: Mapping[str, Any], query: str) -> dict[str, Any]:
    """Return the options without those that have no effect here. Raises UrlError for one that cannot be used."""
    options = {name: value for name, value in given.items() if name not in _OWN}
    for name, value in options.items():
        if name in _NUMBERS:
            _check_number(name, value)
        elif name not in _PLACE | _TLS | _OTHERS:
            named = f"option {name}" if name.isidentifier() and "@" not in query else "options"
            raise UrlError(f"its {named} cannot be used; docs/settings.md lists those that can")
    return options


def _check_number(name: str, value: float) -> None:
    """Raise UrlError for an option that is too small or too large."""
    least, most = _NUMBERS[name]
    if not least <= value <= most:  # NaN is not between them
        raise UrlError(f"its option {name} is {value:g}; it must be {least:g} to {most:g}{_WHY.get(name, '')}")


def shown(url: str) -> str:
    """Return a URL without its password, however broken the URL is."""
    url = _QUERY_PASSWORD.sub(r"\1***", url)
    head, at, place = url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    if not at:
        return url
    if not slashes:
        return f"***@{place}"  # anything before the host may be a password
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}@{place}"
