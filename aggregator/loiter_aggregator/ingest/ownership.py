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
    names = ", ".join(sorted(map(printable, principal.hostnames))) or "no host"
    raise NotYours(f"the certificate is for {names}, not for {printable(host.hostname)}")


def check_owner(principal: Principal, host: sample_pb2.Host, owner: str | None, reported_by: str | None) -> None:
    """Checks that a host id does not belong to another certificate, nor its samples to a host of another name.

    `owner` is the name in the certificate that it was first shown with, `reported_by` the hostname of the samples that
    are stored under it; both None where there is none. A certificate that names the host id itself is not asked for
    more. Raises NotYours.
    """
    if principal.hostnames is None or host.host_id in (principal.host_ids or ()):
        return
    names = ", ".join(sorted(map(printable, principal.hostnames)))
    if owner is not None and owner not in principal.hostnames:
        raise NotYours(
            f"host id {host.host_id} belongs to the certificate of {printable(owner)}, not to that of {names}"
        )
    if owner is None and reported_by is not None and reported_by.lower() not in principal.hostnames:
        raise NotYours(
            f"host id {host.host_id} has samples of {printable(reported_by)}, and the certificate is for {names}: one "
            "that names the host id too may take it over (loiter ca agent --host-id)"
        )


class NotYours(Exception):
    """The caller may not report as this host; the message says why."""
