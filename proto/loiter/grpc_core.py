"""What gRPC's core is told by the environment, which it reads once, when grpc is imported."""

from __future__ import annotations

from collections.abc import MutableMapping


def configure(environment: MutableMapping[str, str]) -> None:
    """Sets what nobody has set. To be called before grpc is imported."""
    # The core would write to standard error what we report in our own words.
    environment.setdefault("GRPC_VERBOSITY", "NONE")
    # Names are looked up by getaddrinfo(3), as every other program of the host does it. The core's own resolver asks
    # the DNS servers even for a name that /etc/hosts has, and finds nothing where one of them does not answer.
    environment.setdefault("GRPC_DNS_RESOLVER", "native")
