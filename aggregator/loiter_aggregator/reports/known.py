"""What a finding is known by, and whether anything is known of it. Pure; whatever shows findings imports this."""

from __future__ import annotations

from loiter.v1 import fleet_service_pb2 as pb

Key = tuple[int, str]


def key_of(finding: pb.Finding) -> Key:
    """What a finding is found again by: its kind, and the application or else the host."""
    return finding.kind, finding.app or next(iter(finding.hostnames), "")


def is_known(finding: pb.Finding) -> bool:
    """False for what was there before, on hosts of which nothing is known now."""
    return finding.HasField("figure") or finding.change == pb.FINDING_CHANGE_RESOLVED
