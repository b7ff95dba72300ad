"""Whether a caller may report as a host. Pure."""

from __future__ import annotations

from loiter.text import printable
from loiter.v1 import sample_pb2
from loiter_aggregator.access.principal import Principal


def certificate_name(principal: Principal, host: sample_pb2.Host) -> str | None:
    """The name in the caller's certificate that stands for a host; None where no certificate was asked for.

    Raises:
        NotYours: The certificate is for another host.
    """
    if principal.hostnames is None:
        return None
    hostname = host.hostname.lower()
    if hostname in principal.hostnames:
        return hostname
    if host.host_id in (principal.host_ids or ()):
        return min(principal.hostnames, default=host.host_id)
    names = ", ".join(sorted(map(printable, principal.hostnames))) or "no host"
    raise NotYours(f"the certificate is for {names}, not for {printable(host.hostname)}")


def check_owner(principal: Principal, host: sample_pb2.Host, name: str | None, owner: str | None) -> None:
    """Checks that a host id does not belong to another certificate.

    `name` is what `certificate_name` returned, `owner` the name that the host id was first reported under. Raises
    NotYours.
    """
    if name is None or owner in (None, name) or host.host_id in (principal.host_ids or ()):
        return
    raise NotYours(
        f"host id {host.host_id} belongs to the certificate of {printable(owner or '')}, not to that of {name}"
    )


class NotYours(Exception):
    """The caller may not report as this host; the message says why."""
