"""The programs that run on simulated hosts."""

from __future__ import annotations

from typing import Final, NamedTuple


class App(NamedTuple):
    """A program as it is on a host: what it is called, and what it has of everything as a rule."""

    name: str
    app: str
    user: str
    established: float
    fds: int
    fd_limit: int
    listeners: int = 1


def _unit(name: str, user: str, established: float, fds: int, fd_limit: int, listeners: int = 1) -> App:
    return App(name, f"{name}.service", user, established, fds, fd_limit, listeners)


# By role, the most important first. What of them is on a host is drawn.
ROLES: Final[dict[str, tuple[App, ...]]] = {
    "web": (
        _unit("nginx", "www-data", 180.0, 40, 65_536, 2),
        _unit("gunicorn", "app", 24.0, 60, 4_096),
        _unit("php-fpm", "www-data", 9.0, 22, 4_096),
        _unit("varnishd", "varnish", 60.0, 130, 131_072),
        _unit("memcached", "memcache", 30.0, 18, 1_024),
    ),
    "api": (
        _unit("envoy", "envoy", 220.0, 90, 65_536, 3),
        _unit("orders", "app", 45.0, 180, 16_384),
        _unit("accounts", "app", 38.0, 150, 16_384),
        _unit("inventory", "app", 20.0, 110, 8_192),
        _unit("redis-server", "redis", 55.0, 30, 65_536),
    ),
    "db": (
        _unit("postgres", "postgres", 95.0, 420, 65_536),
        _unit("pgbouncer", "postgres", 140.0, 32, 16_384),
        _unit("patroni", "postgres", 6.0, 24, 4_096),
        _unit("etcd", "etcd", 18.0, 70, 65_536, 2),
        _unit("wal-archiver", "postgres", 2.0, 14, 1_024, 0),
    ),
    "queue": (
        _unit("beam.smp", "rabbitmq", 160.0, 240, 65_536, 3),
        _unit("kafka", "kafka", 210.0, 1_900, 100_000, 2),
        _unit("zookeeper", "zookeeper", 14.0, 88, 8_192),
        _unit("connect", "kafka", 31.0, 260, 32_768),
        _unit("schema-registry", "kafka", 7.0, 120, 8_192),
    ),
    "batch": (
        _unit("celery", "app", 12.0, 48, 4_096, 0),
        _unit("airflow", "airflow", 8.0, 70, 4_096),
        _unit("spark-worker", "spark", 33.0, 310, 32_768, 2),
        _unit("etl-loader", "etl", 5.0, 36, 1_024, 0),
        _unit("mailer", "app", 3.0, 28, 1_024, 0),
    ),
}

# On every host.
COMMON: Final = (
    _unit("sshd", "root", 1.0, 9, 1_024),
    _unit("node_exporter", "prometheus", 2.0, 11, 8_192),
    _unit("fluent-bit", "root", 3.0, 64, 65_536),
    _unit("chronyd", "chrony", 0.0, 10, 1_024, 0),
    _unit("consul", "consul", 9.0, 33, 65_536, 4),
    _unit("vault-agent", "vault", 2.0, 15, 4_096, 0),
    _unit("systemd-resolve", "systemd-resolve", 0.0, 20, 524_288, 2),
)

# What forgets to close is called so.
_LEAKING_WHAT: Final = ("checkout", "search", "billing", "profile", "media", "pricing", "catalog", "session", "quote")
_LEAKING_HOW: Final = ("api", "worker", "proxy", "sync", "gateway", "feed", "broker")


def leaking_app(number: int, fd_limit: int) -> App:
    """An app that forgets to close, by a number from 0."""
    what = _LEAKING_WHAT[number % len(_LEAKING_WHAT)]
    how = _LEAKING_HOW[number // len(_LEAKING_WHAT) % len(_LEAKING_HOW)]
    again = number // (len(_LEAKING_WHAT) * len(_LEAKING_HOW))
    return _unit(f"{what}-{how}{again or ''}", "app", 26.0, 90, fd_limit)
