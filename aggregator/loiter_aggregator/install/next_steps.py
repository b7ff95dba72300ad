"""What to do once the aggregator serves, as commands to copy."""

from __future__ import annotations

from collections.abc import Collection

from loiter.addresses import is_loopback
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.install.places import FLEET_TOKEN, INGEST_TOKEN, OPERATOR_TOKEN, READ_TOKEN, TRUST


def next_steps(settings: AggregatorSettings, name: str | None, ingest: bool, read: bool, trust: bool) -> str:
    """The command for every host and the one to look with.

    Args:
        settings: Those of the service.
        name: What its certificate calls it; None without TLS.
        ingest: Whether there is a token for agents that was made here, `read` one for readers.
        read: See `ingest`.
        trust: Whether the authority that was made here vouches for the certificate; else it is not known which does.
    """
    agent = ["loiter-agent install", f"--server {_reached(settings.listen, name)}"]
    look = ["loiter top apps", f"--server {_reached(settings.listen_readers or settings.listen, name)}"]
    hand_out = []
    if name is not None and trust:
        agent.append(f"--ca {TRUST.name}")
        look.append(f"--ca {TRUST}")
        hand_out.append(str(TRUST))
    elif name is not None:
        agent.append("--ca AUTHORITY.pem")
        look.append("--ca AUTHORITY.pem")
    if name is not None and ingest:
        agent.append(f"--token-file {INGEST_TOKEN.name}")
        hand_out.append(str(INGEST_TOKEN))
    elif name is not None:
        agent.append("--certificate HOST.pem --key HOST.key")
    if name is not None and read:
        look.append(f"--token-file {READ_TOKEN}")
    copied = f", with copies of {' and '.join(hand_out)}" if hand_out else ""
    where = "On every host, as root" if name is not None else "On this host, as root"
    return "\n".join(
        (
            "",
            f"{where}{copied}:",
            f"    {' '.join(agent)}",
            "To look, here as root:" if name is not None and read else "To look:",
            f"    {' '.join(look)}",
            *_page(settings, name, read),
        )
    )


def _page(settings: AggregatorSettings, name: str | None, read: bool) -> list[str]:
    """Where the web page is, if it is served."""
    if settings.http is None:
        return []
    here = is_loopback(settings.http)
    address = settings.http if here or name is None else _reached(settings.http, name)
    scheme = "http" if name is None else "https"
    token = f", with the token in {READ_TOKEN}" if name is not None and read else ""
    return [f"Or in a browser{' on this machine' if here else ''}{token}:", f"    {scheme}://{address}/"]


def _reached(listen: str, name: str | None) -> str:
    return listen if name is None else f"{name}:{listen.rpartition(':')[2]}"


def tokens_gone(in_force: Collection[str], ingest: bool, read: bool) -> str:
    """Of tokens that are in force and whose files are gone: how to have others. `ingest` and `read` are the files."""
    gone = [
        f"Token {name} is in force; {file}, where it was, is gone. Without a copy of it: "
        f"loiter token revoke {name} && loiter service install"
        for name, file, there in ((FLEET_TOKEN, INGEST_TOKEN, ingest), (OPERATOR_TOKEN, READ_TOKEN, read))
        if name in in_force and not there
    ]
    return "\n".join(["", *gone]) if gone else ""
