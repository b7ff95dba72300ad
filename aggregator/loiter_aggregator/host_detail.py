"""Finds a host by name, its latest sample as it came, and the samples of it that are lost."""

from __future__ import annotations

from dataclasses import dataclass

from loiter.v1 import ingest_service_pb2 as ingest_pb
from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.clock import from_timestamp, to_timestamp
from loiter_aggregator.store.question import Reader
from loiter_aggregator.store.schema import LOST_AT


@dataclass(frozen=True, slots=True)
class HostDetail:
    """A host, and its latest sample; that is None where retention has taken it.

    `latest_agent_time` is that of the sample by the host's own clock, and `skew` how far that was behind ours; both in
    milliseconds, and None without a sample.
    """

    host_key: int
    host: pb.Host
    interval_ms: int
    last_seen: int
    latest: pb.Sample | None
    latest_agent_time: int | None
    skew: int | None


@dataclass(frozen=True, slots=True)
class LostSamples:
    """Samples that are lost; times in milliseconds. See the message of the same name."""

    first_time: int | None
    last_time: int | None
    samples: int | None
    reason: ingest_pb.LossReason.ValueType
    received: int


def find_host(store: Reader, name: str) -> HostDetail | None:
    """Finds a host by its name or id; of several with one name, the one heard of last. Raises StoreError."""
    rows = store.read(
        "SELECT host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen "
        "FROM host WHERE (hostname = $name OR host_id = $name) AND last_seen IS NOT NULL "
        "ORDER BY last_seen DESC LIMIT 1",
        {"name": name},
    )
    if not rows:
        return None
    host_key, host_id, hostname, boot_id, agent_version, kernel_release, interval_ms, last_seen = rows[0]
    latest, agent_time, skew = _latest(store, host_key)
    labels = store.read("SELECT name, value FROM host_label WHERE host_key = $key", {"key": host_key})
    return HostDetail(
        host_key=host_key,
        host=pb.Host(
            host_id=host_id,
            hostname=hostname,
            boot_id=boot_id,
            labels=dict(labels),
            agent_version=agent_version,
            kernel_release=kernel_release,
        ),
        interval_ms=interval_ms,
        last_seen=last_seen,
        latest=latest,
        latest_agent_time=agent_time,
        skew=skew,
    )


def lost_samples(store: Reader, host_key: int, since: int, until: int, limit: int) -> list[LostSamples]:
    """Lists the lost samples of a host within a time, latest first. Raises StoreError."""
    rows = store.read(
        f"""
        SELECT first_ts, last_ts, last_sequence - first_sequence + 1, reason, received FROM lost_sample
        WHERE host_key = $key AND {LOST_AT} >= $since AND {LOST_AT} <= $until
        ORDER BY {LOST_AT} DESC, received DESC, last_sequence DESC LIMIT {int(limit)}""",
        {"key": host_key, "since": since, "until": until},
    )
    return [LostSamples(*row) for row in rows]


def known_names(store: Reader) -> list[str]:
    """Lists the names of all hosts. Raises StoreError."""
    rows = store.read("SELECT DISTINCT hostname FROM host WHERE last_seen IS NOT NULL ORDER BY hostname")
    return [name for (name,) in rows]


def _latest(store: Reader, host_key: int) -> tuple[pb.Sample | None, int | None, int | None]:
    rows = store.read(
        "SELECT ts, sample, (SELECT max(skew) FROM host_sample WHERE host_key = $key AND ts = host_latest.ts) "
        "FROM host_latest WHERE host_key = $key",
        {"key": host_key},
    )
    if not rows:
        return None, None, None
    ts, sent, skew = rows[0]
    sample = pb.Sample.FromString(sent)
    agent_time = from_timestamp(sample.sample_time)
    sample.sample_time.CopyFrom(to_timestamp(ts))  # with the host's clock set right
    return sample, agent_time, skew or 0
