"""`loiter sockets`: the sockets of one host, as its agent reads them now."""

from __future__ import annotations

from typing import Any, Final

import click
from rich.console import Group
from rich.text import Text

from loiter.limits import MAX_LISTED_SOCKETS
from loiter.tcp_states import STATE_NAMES
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.client import connect
from loiter_aggregator.commands.options import output_option, server_option
from loiter_aggregator.output.data import as_csv, as_json
from loiter_aggregator.output.rows import Row
from loiter_aggregator.output.sockets import SOCKETS, document, heading, socket_row, summary
from loiter_aggregator.output.tables import console, table

# The largest that Linux gives (PID_MAX_LIMIT of include/linux/threads.h).
_MAX_PID: Final = 4_194_304
# Besides what ss(8) calls them in its filters: what it prints, and what people make of it.
_ALIASES: Final = {"estab": "established", "listening": "listen", "fin-wait1": "fin-wait-1", "fin-wait2": "fin-wait-2"}


def _known_states() -> dict[str, tuple[socket_pb2.TcpState.ValueType, ...]]:
    """The states by their names. To ss(8), a connection request is in SYN-RECV, too."""
    known: dict[str, tuple[socket_pb2.TcpState.ValueType, ...]] = {}
    for key, name in STATE_NAMES.items():
        if key != "close":  # those are in no table of the kernel
            word = name.lower().replace("_", "-")
            known[_ALIASES.get(word, word)] = (socket_pb2.TcpState.Value(f"TCP_STATE_{key.upper()}"),)
    known["syn-recv"] += known.pop("new-syn-recv")
    return known


_STATES: Final = _known_states()


class StateType(click.Choice[str]):
    """A state of a TCP connection, in upper or lower case."""

    name = "state"

    def __init__(self) -> None:
        """Knows the names of ss(8)."""
        super().__init__(tuple(_STATES))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Reads it."""
        lower = str(value).lower().replace("_", "-")
        return super().convert(_ALIASES.get(lower, lower), param, ctx)


@click.command()
@click.argument("host")
@click.option("--pid", type=click.IntRange(1, _MAX_PID), help="Only those that this process holds.")
@click.option(
    "--state",
    "wanted",
    type=StateType(),
    multiple=True,
    metavar="STATE",
    help=f"Only those in this state; may be given again. One of {', '.join(_STATES)}; without, all but listen.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED_SOCKETS),
    default=100,
    show_default=True,
    help="How many sockets to show.",
)
@output_option
@server_option
def sockets(host: str, pid: int | None, wanted: tuple[str, ...], limit: int, output: str, server: str) -> None:
    """List the sockets of a host as they are now: its agent is asked, and the aggregator's log says who did."""
    states = sorted({state for name in wanted for state in _STATES[name]})
    request = pb.ListSocketsRequest(name=host, pid=pid or 0, states=states, limit=limit)
    with connect(server) as client:
        answer = client.ask(client.stub.ListSockets, request)
    if output == "json":
        click.echo(as_json(document(answer)))
    elif output == "csv":
        click.echo(as_csv(_rows(answer), list(socket_row(socket_pb2.Socket()))), nl=False)
        # Not part of the data, and yet what it rests on.
        click.echo(summary(answer.answer), err=True)
    else:
        console(output == "wide").print(_page(answer, output == "wide"))


def _rows(answer: pb.ListSocketsResponse) -> list[Row]:
    return [socket_row(one) for one in answer.answer.sockets]


def _page(answer: pb.ListSocketsResponse, wide: bool) -> Group:
    rows = _rows(answer)
    body = table(SOCKETS, rows, wide) if rows else Text("no such socket")
    return Group(Text(heading(answer), style="bold"), body, Text(summary(answer.answer), style="dim"))
