"""Why, whose and when on the command line: `loiter explain`, and what `top` and `host` show of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from loiter.v1 import sample_pb2
from loiter_aggregator.commands import loiter
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, open_store, serving_in_background, store_samples
from support.reports import MINUTE, NOW, explained, full_report, process, sample, stamp

HOSTILE = "\x1b[31m[red]=evil"
MEASURES = ("close-wait-growth", "stuck", "fd-eta", "ports", "time-wait", "fd-share")


def _plain() -> sample_pb2.Sample:
    """A host with one namespace, and a process for which there is much to type."""
    one = explained(process(4_194_304, 30), sample_pb2.CAUSE_NEVER_ACCEPTED)
    one.evidence.never_accepted = 30
    one.container.runtime = "docker"
    taken = sample(processes=[one])
    taken.namespaces.add(id="4026531833", name="host", read=True)
    where = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
    group = taken.time_wait.add(namespace="4026531833", destination=where, count=5)
    group.owner.pid = one.pid
    taken.ports.add(namespace="4026531833", source="::", destination=where, used=5, available=9)
    return taken


def _fill(store: DuckDbStore) -> None:
    """A host of which everything is known, and one that lies."""
    ticks = []
    for tick in range(4):
        taken = sample_pb2.Sample()
        taken.CopyFrom(full_report().sample)
        taken.sample_time.CopyFrom(stamp(NOW - (3 - tick) * MINUTE))
        taken.processes[0].fd_open = 370 + 10 * tick
        ticks.append(taken)
    store_samples(store, "web-1", ticks)

    store_samples(store, "plain", [_plain()])
    old = explained(process(7, 30, sockets=40, fd_open=64, fd_limit=64))
    store_samples(store, "old", [sample(NOW - 10 * MINUTE, processes=[old, process(8)])])

    one = explained(process(7, 30, name=HOSTILE, app=HOSTILE, user=HOSTILE))
    one.peers.add(address=HOSTILE, port=1, count=30)
    one.evidence.wait_channels[HOSTILE] = one.evidence.thread_states[HOSTILE] = 1
    one.container.runtime, one.container.id = HOSTILE, HOSTILE
    lies = sample(processes=[one], time_wait=9)
    lies.time_wait.add(namespace=HOSTILE, destination=HOSTILE, count=9, closes_per_second=1e308).owner.pid = 7
    lies.time_wait.add(listener=HOSTILE * 12, count=2**32 - 1).owner.app = HOSTILE * 20
    lies.ports.add(source=HOSTILE * 12, destination=HOSTILE * 12, used=2**32 - 1, available=1, pid=7)
    lies.namespaces.add(name=HOSTILE)
    store_samples(store, "evil", [lies])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator with the two hosts."""
    store = open_store(tmp_path_factory.mktemp("explain"))
    _fill(store)
    with serving_in_background(store, FakeClock()) as address:
        yield address
    store.close()


def run(server: str, *arguments: str) -> Result:
    """Runs `loiter` as in a pipe of 80 columns."""
    return CliRunner().invoke(
        loiter, arguments, prog_name="loiter", env={"LOITER_SERVER": server, "COLUMNS": "80", "FORCE_COLOR": None}
    )


def good(server: str, *arguments: str) -> str:
    """Runs `loiter`, which succeeds, and returns its output."""
    result = run(server, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_explain_reads_well_in_80_columns(server: str) -> None:
    """Who it is, the verdict, the steps, what to do, commands, and what was not seen."""
    text = good(server, "explain", "web-1", "100")
    assert text.startswith("gateway.service  pid 100 on web-1, user www-data\n")
    assert "in docker container 0123456789ab" in text
    order = ["It leaks: 9 sockets", "Does it hold", "Who closed first?", "What to do", "See for yourself", "Not seen"]
    positions = [text.index(one) for one in order]
    assert positions == sorted(positions)
    assert "  nsenter -t 100 -n ss -tanpo state close-wait | grep 'pid=100,'\n" in text
    assert max(map(cell_len, text.splitlines())) <= 80


def test_commands_are_never_cut(server: str) -> None:
    """They are there to be copied, comments and all; what is around them is broken into lines."""
    commands = json.loads(good(server, "explain", "plain", "4194304", "-o", "json"))["commands"]
    assert max(map(len, commands)) > 80
    lines = good(server, "explain", "plain", "4194304").splitlines()
    assert [line for line in lines if line[2:] in commands] == ["  " + command for command in commands]
    assert max(cell_len(line) for line in lines if line[2:] not in commands) <= 80


@pytest.mark.parametrize(("window", "said"), [("1m", True), ("1h", False)])
def test_a_process_without_a_sample_in_the_window_is_shown_as_it_was(server: str, window: str, said: bool) -> None:
    """Its figures are those of its latest sample, on the page and in JSON alike."""
    page = good(server, "explain", "old", "7", "--window", window)
    assert ("no samples in the last 1m: all of this is of its latest one" in " ".join(page.split())) is said
    assert "30 sockets of its 40." in page
    found = json.loads(good(server, "explain", "old", "7", "--window", window, "-o", "json"))
    assert (found["close_wait"], found["sockets"], found["cause"], found["samples"]) == (30, 40, "leak", int(not said))
    assert (found["fd_share"], found["fd_eta_seconds"], found["fd_growth_per_hour"]) == (1, 0, None)
    assert (found["time_wait"], found["close_wait_age_seconds"]["max"]) == (None, 10_800)


def test_a_process_whose_close_wait_is_unknown_has_samples_all_the_same(server: str) -> None:
    """They only do not tell that."""
    page = good(server, "explain", "old", "8")
    assert "How many CLOSE_WAIT sockets it holds is unknown." in page
    assert "no samples" not in page


def test_explain_json_has_everything(server: str) -> None:
    """The row of the process, the reasoning, the evidence, and the sockets and ports that are its."""
    found = json.loads(good(server, "explain", "web-1", "100", "-o", "json"))
    assert (found["host"], found["pid"], found["cause"], found["stuck"]) == ("web-1", 100, "leak", 9)
    assert found["close_wait_age_seconds"] == {"p50": 3_600, "p99": 7_200, "max": 10_800}
    assert found["fd_eta_seconds"] == pytest.approx(60 * (1_024 - 400) / 10)
    assert found["verdict"].startswith("It leaks")
    assert set(found["steps"][0]) == {"question", "finding"}
    assert found["commands"]
    assert found["remedies"]
    assert found["unseen"]
    evidence = found["evidence"]
    assert (evidence["settled"], evidence["eof_read"], evidence["survived"]) == (9, 6, 0.9)
    assert evidence["accept_queue"] == {"depth": 1, "limit": 128}
    assert evidence["thread_states"] == {"S": 15, "R": 1}
    assert found["peers"] == [
        {"address": "10.0.0.5", "port": 443, "count": 7},
        {"address": "2001:db8::7", "port": None, "count": 2},
    ]
    assert found["container"] == {"runtime": "docker", "id": "0123456789ab", "pod": "a-pod"}
    assert [group["destination"] for group in found["time_wait_groups"]] == ["10.0.0.5:443"]
    assert [budget["pid"] for budget in found["ports"]] == [100]


def test_what_is_unknown_of_a_process_is_null(server: str) -> None:
    """Of one that has no CLOSE_WAIT sockets that could be looked into."""
    found = json.loads(good(server, "explain", "web-1", "200", "-o", "json"))
    for key in ("cause", "stuck", "close_wait_age_seconds", "evidence", "container", "arguments", "fd_eta_seconds"):
        assert found[key] is None, key
    assert (found["time_wait_groups"], found["ports"], found["peers"]) == ([], [], [])


@pytest.mark.parametrize(
    "arguments", [("explain", "evil", "7"), ("host", "evil"), ("host", "evil", "-o", "wide"), ("top", "processes")]
)
def test_hostile_text_can_do_nothing_to_the_terminal(server: str, arguments: tuple[str, ...]) -> None:
    """Wherever it stands: names, peers, functions of the kernel, destinations, namespaces."""
    text = good(server, *arguments)
    assert "\x1b" not in text
    assert r"\x1b[31m" in text
    if "wide" not in arguments:
        commands = [line for line in text.splitlines() if line.startswith("  ") and "ss " in line]
        assert max(map(cell_len, (line for line in text.splitlines() if line not in commands))) <= 80
        assert not any("evil" in line for line in commands)


def test_a_process_that_is_not_there_is_a_failure_in_words(server: str) -> None:
    """One line, and wrong usage is said as such."""
    result = run(server, "explain", "web-1", "999")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: process 999 is not in the latest sample of web-1")
    assert len(result.stderr.splitlines()) == 1
    assert run(server, "explain", "wbe-1", "100").stderr.startswith("Error: no host 'wbe-1' has reported; did you mean")
    for pid in ("0", "-1", "4194305", "one"):
        assert run(server, "explain", "web-1", pid).exit_code == 2
    assert run(server, "explain", "web-1").exit_code == 2


@pytest.mark.parametrize("kind", ["hosts", "processes", "apps"])
@pytest.mark.parametrize("by", MEASURES)
def test_every_ranking_shows_the_cause(server: str, kind: str, by: str) -> None:
    """In 80 columns, by whichever measure."""
    lines = good(server, "top", kind, "--by", by).splitlines()
    assert "CAUSE" in lines[1].split()
    assert any(" leak " in line for line in lines)
    assert max(map(cell_len, lines)) <= 80


def test_a_ranking_by_time_left_shows_it(server: str) -> None:
    """None, and at ten more a minute with 624 left, 62 minutes and 24 seconds."""
    _, titles, exhausted, first, *_ = good(server, "top", "processes", "--by", "fd-eta").splitlines()
    assert "FD-ETA" in titles.split()
    assert exhausted.split()[-3:] == ["64", "100.0", "0s"]
    assert "1h 2m" in first
    wide = good(server, "top", "processes", "--by", "fd-eta", "-o", "wide").splitlines()[1].split()
    assert {"STUCK", "AGE-P99", "ETA-MIN", "ETA-MAX", "HARD", "PORTS%", "GROWTH/h"} <= set(wide)


def test_host_shows_whose_time_wait_it_is_and_which_ports_are_left(server: str) -> None:
    """With how the owner was found, the limits of the kernel, and the namespaces that were not read."""
    text = good(server, "host", "web-1")
    words = " ".join(text.split())
    assert "1,200 20 10.0.0.5:443 gateway.service 100 exact" in words
    assert "2,200 37 port 0.0.0.0:8080 - - unattributed" in words
    assert "this side closed first; TIME_WAIT lasts 1m, at most 262,144 (tcp_max_tw_buckets)" in words
    assert "3 destroyed for want of room since boot; tcp_tw_reuse 2" in words
    assert "7,000 28,000 25.0 1,200 1h 10.0.0.1 10.0.0.5:443 100" in words
    assert "network namespaces unread: blue" in words
    assert max(map(cell_len, text.splitlines())) <= 80


def test_host_names_the_namespace_where_there_are_several(server: str) -> None:
    """Of TIME_WAIT and of ports, in 80 columns; where there is one, there is nothing to tell."""
    lines = [line.split() for line in good(server, "host", "web-1").splitlines()]
    assert sum("NAMESPACE" in words for words in lines) == 2
    assert ["1,200", "20", "10.0.0.5:443", "gateway.service", "100", "exact", "host"] in lines
    assert ["7,000", "28,000", "25.0", "1,200", "1h", "10.0.0.1", "10.0.0.5:443", "100", "host"] in lines
    assert "NAMESPACE" not in good(server, "host", "plain")
    assert "NAMESPACE" in good(server, "host", "plain", "-o", "wide")


def test_host_json_has_the_keys_of_a_sample(server: str) -> None:
    """TIME_WAIT with owners, its limits, ports and namespaces."""
    found = json.loads(good(server, "host", "web-1", "-o", "json"))
    first, rest = found["time_wait_groups"]
    assert list(first) == ["namespace", "destination", "listener", "count", "closes_per_second", "owner"]
    assert (first["destination"], first["listener"], first["count"]) == ("10.0.0.5:443", None, 1_200)
    assert first["owner"] == {
        "pid": 100,
        "start_time": "2027-01-14T08:00:00.000Z",
        "name": "gateway",
        "app": "gateway.service",
        "how": "exact",
    }
    assert rest["owner"] == {"pid": None, "start_time": None, "name": None, "app": None, "how": "unattributed"}
    assert found["time_wait_limits"] == {
        "overflows": 3,
        "max_buckets": 262_144,
        "reuse": 2,
        "seconds": 60,
        "overflows_per_second": None,
    }
    (budget,) = found["ports"]
    assert (budget["used"], budget["available"], budget["pid"], budget["exhausted_in_seconds"]) == (
        7_000,
        28_000,
        100,
        3_600,
    )
    assert [tuple(one.values()) for one in found["namespaces"]] == [
        ("4026531833", "host", True, "sock_diag"),
        ("4026532001", "blue", False, None),
    ]
    assert found["collectors_failed"] == [{"name": "host_fds", "error": "permission denied"}]
    assert (found["cause"], found["stuck"], found["ports_share"]) == ("leak", 9, 0.25)
