"""What `loiter sockets` shows of an answer, and what it takes for a state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from loiter.tcp_states import STATE_NAMES
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import socket_pb2
from loiter_aggregator.commands import loiter
from loiter_aggregator.commands import sockets as command
from loiter_aggregator.output.sockets import document, socket_row
from support.reports import NOW, stamp

HOSTILE = "<script>alert(1)</script>\x1b[2J=cmd()"


def listed(*sockets: socket_pb2.Socket, **fields: Any) -> pb.ListSocketsResponse:
    """An answer."""
    answer = socket_pb2.SocketAnswer(sockets=sockets, sample_time=stamp(NOW), **fields)
    found = pb.ListSocketsResponse(answer=answer)
    found.host.hostname, found.host.host_id = "web-1", "ab" * 16
    return found


def known() -> socket_pb2.Socket:
    """A socket of which everything is known."""
    one = socket_pb2.Socket(
        state=socket_pb2.TCP_STATE_CLOSE_WAIT,
        local="[2001:db8:1111:2222:3333:4444:5555:6666]:8080",
        peer="198.51.100.222:54321",
        receive_queue=0,
        send_queue=4_000_000_000,
        pid=4_194_304,
        name="gateway",
        app="order-api.service",
        namespace="4026531840",
    )
    one.age.FromMilliseconds(5_400_500)
    one.idle.FromSeconds(60)
    return one


def shown(monkeypatch: pytest.MonkeyPatch, answer: pb.ListSocketsResponse, *flags: str) -> tuple[str, str]:
    """Standard output and error of the command for an answer, in a pipe of 80 columns."""
    monkeypatch.setattr("loiter_aggregator.client.FleetClient.ask", lambda *_: answer)
    done = CliRunner().invoke(loiter, ["sockets", "web-1", *flags], env={"COLUMNS": "80"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_a_socket_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what tells it from others: how old, what is unread, who is at the other end, whose it is."""
    nothing_known = socket_pb2.Socket(state=socket_pb2.TCP_STATE_LISTEN)
    text, _ = shown(monkeypatch, listed(known(), nothing_known, matching=70_000, namespaces_unread=0))
    heading, titles, first, second, footer = text.splitlines()
    assert heading == "sockets of web-1 at 2027-01-15T08:00:00.000Z"
    assert titles.split() == ["STATE", "AGE", "RECV-Q", "SEND-Q", "PORT", "PEER", "PID", "APP"]
    assert first.split()[:-1] == ["CLOSE_WAIT", "1h", "30m", "0", "4,000M", "8080", "198.51.100.222:54321", "4194304"]
    assert second.split() == ["LISTEN", "-", "-", "-", "-", "-", "-", "-"]
    assert footer == "2 of 70,000 sockets"
    assert max(map(cell_len, text.splitlines())) <= 80


def test_what_is_not_known_of_an_answer_stands_beneath_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces that were not read, holders that were not found; and beside CSV, on standard error."""
    answer = listed(known(), matching=3, unattributed=1, namespaces_unread=2)
    footer = "1 of 3 sockets; of them, of an unknown process: 1; network namespaces unread: 2"
    assert shown(monkeypatch, answer)[0].splitlines()[-1] == footer
    out, error = shown(monkeypatch, answer, "-o", "csv")
    assert (len(out.splitlines()), error.strip()) == (2, footer)
    unknown = ["no such socket", "0 of - sockets; network namespaces unread: -"]
    assert shown(monkeypatch, listed())[0].splitlines()[1:] == unknown


def test_names_of_anybodys_making_are_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the terminal, in CSV and in JSON."""
    evil = socket_pb2.Socket(
        state=socket_pb2.TCP_STATE_CLOSE_WAIT,
        local=HOSTILE,
        peer=HOSTILE,
        name=HOSTILE,
        app="=cmd()",
        namespace=HOSTILE,
    )
    answer = listed(evil)
    answer.host.hostname = HOSTILE
    for flags in ((), ("-o", "wide"), ("-o", "csv"), ("-o", "json")):
        out, error = shown(monkeypatch, answer, *flags)
        assert "\x1b" not in out + error
    row = shown(monkeypatch, answer, "-o", "csv")[0].splitlines()[1]
    assert ",'=cmd()," in row
    assert r"\x1b[2J" in row
    assert json.loads(shown(monkeypatch, answer, "-o", "json")[0])["sockets"][0]["name"] == HOSTILE


def test_what_is_unknown_is_null_in_json() -> None:
    """It is not 0, and an unknown state is none."""
    nothing = socket_row(socket_pb2.Socket())
    assert {key for key, value in nothing.items() if value is None} == nothing.keys() - {"local", "peer"}
    found = document(listed(known(), matching=1))
    assert (found["host"], found["time"], found["matching"]) == ("web-1", "2027-01-15T08:00:00.000Z", 1)
    (one,) = found["sockets"]
    assert (one["state"], one["age_seconds"], one["idle_seconds"], one["receive_queue"]) == (
        "close_wait",
        5400.5,
        60,
        0,
    )


@pytest.mark.parametrize(
    ("word", "states"),
    [
        ("close-wait", [8]),
        ("CLOSE_WAIT", [8]),
        ("estab", [1]),
        ("established", [1]),
        ("listening", [10]),
        ("syn-recv", [3, 12]),
        ("fin-wait2", [5]),
    ],
)
def test_states_are_called_what_ss_calls_them(monkeypatch: pytest.MonkeyPatch, word: str, states: list[int]) -> None:
    """In its filters and in its output, in upper or lower case."""
    requests: list[pb.ListSocketsRequest] = []

    def ask(_: object, __: object, request: pb.ListSocketsRequest) -> pb.ListSocketsResponse:
        requests.append(request)
        return listed()

    monkeypatch.setattr("loiter_aggregator.client.FleetClient.ask", ask)
    CliRunner().invoke(loiter, ["sockets", "web-1", "--state", word, "--state", "time-wait"], catch_exceptions=False)
    assert list(requests[0].states) == sorted([*states, 6])


def test_every_state_that_the_kernel_lists_can_be_asked_for() -> None:
    """TCP_CLOSE is in none of its tables."""
    asked = {state for states in command._STATES.values() for state in states}
    assert len(asked) == len(STATE_NAMES) - 1
    assert socket_pb2.TCP_STATE_CLOSE not in asked


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("web-1", "--state", "closing-time"), "'closing-time' is not one of 'established', 'syn-sent'"),
        (("web-1", "--pid", "0"), "--pid"),
        (("web-1", "--limit", "1001"), "--limit"),
        ((), "HOST"),
    ],
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...], named: str) -> None:
    """The message names what is wrong."""
    done = CliRunner().invoke(loiter, ["sockets", *words])
    assert done.exit_code == 2
    assert named in done.output
