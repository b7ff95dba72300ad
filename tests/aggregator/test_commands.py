"""The command line, against an aggregator in this process."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from loiter.v1 import ingest_service_pb2, sample_pb2
from loiter.version import version
from loiter_aggregator.commands import VERBS, loiter
from loiter_aggregator.ingest.registry import Conflict
from loiter_aggregator.output.rows import NESTED
from loiter_aggregator.store.batch import Batch, Lost
from loiter_aggregator.store.duckdb_store import DuckDbStore
from support.aggregators import FakeClock, host_key, open_store, put_host, record, serving_in_background, store_samples
from support.reports import EPOCH, HOUR, MINUTE, NOW, full_report, hello, host_id, process, report, sample, stamp

HOSTILE = "\x1b[31m[red]=evil"
KINDS = ("hosts", "processes", "apps")


def _fill(store: DuckDbStore) -> None:
    """A leaking host, a steady one, a silent one, and one that has only said hello."""
    for name, step, role in (("web-1", 2, "web"), ("db-1", 0, "db")):
        store_samples(
            store,
            name,
            [
                sample(
                    NOW - (4 - tick) * MINUTE,
                    5 + step * tick,
                    time_wait=70 if role == "web" else 900,
                    established=12,
                    fd_allocated=2_000,
                    fd_limit=10_000,
                    processes=[
                        process(100, 5 + step * tick, app=f"{role}.service", name=role, fd_open=40, fd_limit=1_024)
                    ],
                    coverage=sample_pb2.Coverage(
                        sockets_attributed=12,
                        sockets_unattributed=1,
                        processes=90,
                        processes_unreadable=2,
                        namespaces=3,
                        namespaces_unread=1,
                        namespaces_by_procfs=2,
                    ),
                )
                for tick in range(5)
            ],
            labels={"role": role},
        )
    said = hello("evil")
    said.host.hostname = HOSTILE
    store_samples(store, "evil", [sample(NOW - 30 * MINUTE, 3, processes=[process(7, 3, app=HOSTILE, name=HOSTILE)])])
    put_host(store, record(said), NOW - 30 * MINUTE)
    put_host(store, record(hello("new")), NOW)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator with a small fleet."""
    store = open_store(tmp_path_factory.mktemp("commands"))
    _fill(store)
    with serving_in_background(store, FakeClock()) as address:
        yield address
    store.close()


# What a terminal, a spreadsheet or a browser would act on, and what it would take for markup.
NASTY = (
    "\x1b]0;title\x07\x9b2J",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "\u202egnp.exe\u2066",
    "z" + 256 * "\u0301",
    "[bold red]x[/] [link=file:///]y[/link]",
    "two\r\nlines\ttabs\x08\x00",
)


def _trouble(store: DuckDbStore) -> None:
    """A host of each nasty name with all that can be the matter with one, and texts as nasty in every place."""
    for place, name in enumerate(NASTY):
        said = hello(f"host-{place}", labels={"role": name, "number": str(place)})
        said.host.hostname, said.host.kernel_release, said.host.agent_version = name, name, name
        key = host_key(f"host-{place}")
        batch = Batch()
        batch.hosts[key] = record(said)
        for sequence in range(1, 4):
            at = NOW - (3 - sequence) * MINUTE
            taken = full_report().sample
            taken.sample_time.CopyFrom(stamp(at - HOUR - 2 * MINUTE))
            taken.degradation = sample_pb2.DEGRADATION_NO_DETAIL
            taken.cost.cpu_share, taken.cost.cpu_budget = 0.031, 0.02
            taken.spool.waiting_reports, taken.spool.waiting_bytes, taken.spool.in_memory = 1_234, 5_600_000, True
            for one in taken.processes:
                one.name = one.app = one.user = one.arguments = name
                one.evidence.wait_channels[name] = 1
            for group in taken.time_wait:
                group.owner.name = group.owner.app = group.destination = group.namespace = name
            for budget in taken.ports:
                budget.source = budget.destination = budget.namespace = name
            for namespace in taken.namespaces:
                namespace.id, namespace.name = f"{name}{namespace.read}", name
            taken.collectors.add(name=name, error=name)
            batch.add(key, report(f"host-{place}", sequence, taken), at, skew=HOUR + 2 * MINUTE)
        full = ingest_service_pb2.LOSS_REASON_SPOOL_FULL
        batch.add_loss(key, Lost(EPOCH, 4, 4_803, full, NOW - 30 * MINUTE, NOW - 2 * MINUTE), NOW)
        batch.add_loss(key, Lost(EPOCH, None, 4_804, ingest_service_pb2.LOSS_REASON_SPOOL_CORRUPT), NOW)
        store.write(batch)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aggregator whose hosts all have something the matter with them, and nasty names."""
    store = open_store(tmp_path_factory.mktemp("troubled"))
    _trouble(store)
    conflicts = [Conflict(host_id("host-0"), name, name, name, name, NOW) for name in NASTY]
    with serving_in_background(store, FakeClock(), conflicts) as address:
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


def bad_usage(server: str, *arguments: str) -> str:
    """Runs `loiter`, which is used wrongly, and returns what it says."""
    result = run(server, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def failure(server: str, *arguments: str) -> str:
    """Runs `loiter`, which fails, and returns what it says: one line, no traceback."""
    result = run(server, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def rows_of_csv(text: str) -> list[dict[str, str]]:
    """Reads CSV back."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("kind", KINDS)
def test_top_shows_a_table_of_80_columns(server: str, kind: str) -> None:
    """A heading, titles, the worst first, and what it rests on."""
    heading, titles, first, *_ = lines = good(server, "top", kind, "--label", "role=web").splitlines()
    assert heading == f"{kind} by close-wait-growth, last 1h"
    assert titles.split()[0] == "#"
    assert "GROWTH/h" in titles
    assert first.split()[:2] == (["1", "web.service"] if kind == "apps" else ["1", "web-1"])
    assert "+120" in first
    assert max(map(cell_len, lines)) <= 80
    assert "hosts reporting" in "\n".join(lines)


@pytest.mark.parametrize("kind", KINDS)
def test_top_wide_shows_more(server: str, kind: str) -> None:
    """Columns that the narrow table leaves out."""
    arguments = ("top", kind, "--label", "role=web", "-o")
    narrow, wide = (good(server, *arguments, form).splitlines()[1] for form in ("table", "wide"))
    assert set(narrow.split()) < set(wide.split())
    assert "ESTAB" in wide
    assert "ESTAB" not in narrow


@pytest.mark.parametrize("kind", KINDS)
def test_top_json_is_a_list_of_rows(server: str, kind: str) -> None:
    """On standard output alone; what it rests on goes to standard error."""
    result = run(server, "top", kind, "-o", "json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    first = rows[0]
    assert first["close_wait"] == 13
    assert first["close_wait_growth_per_hour"] == pytest.approx(120)
    assert first["close_wait_growth_fit"] == pytest.approx(1)
    assert first["close_wait_max"] == 13
    assert first["samples"] == 5
    assert len(first["close_wait_trend"]) == 20
    assert rows[2]["close_wait_growth_per_hour"] is None
    assert "\x1b" not in result.stdout
    assert result.stderr.startswith("3 of 4 hosts reporting; 24 of 26 sockets charged")


def test_top_json_rows_say_which_host_and_process(server: str) -> None:
    """By name, id and pid."""
    host = json.loads(good(server, "top", "hosts", "-o", "json"))[0]
    assert (host["host"], host["host_id"], host["time_wait"]) == ("web-1", host_id("web-1"), 70)
    found = json.loads(good(server, "top", "processes", "-o", "json"))[0]
    assert (found["host"], found["pid"], found["name"], found["app"]) == ("web-1", 100, "web", "web.service")
    assert found["time_wait"] is None
    app = json.loads(good(server, "top", "apps", "-o", "json"))[0]
    assert (app["app"], app["hosts"], app["processes"]) == ("web.service", 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_top_csv_has_the_columns_of_json_but_lists(server: str, kind: str) -> None:
    """The same rows; unknown is empty; names are no formulas and are kept."""
    rows = rows_of_csv(good(server, "top", kind, "-o", "csv"))
    from_json = json.loads(good(server, "top", kind, "-o", "json"))
    assert list(rows[0]) == [key for key in from_json[0] if key not in NESTED]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["close_wait"] == "13"
    assert rows[2]["close_wait_growth_per_hour"] == ""


def test_top_csv_of_an_empty_ranking_still_has_its_header(server: str) -> None:
    """A script finds the columns it looks for."""
    text = good(server, "top", "hosts", "--label", "role=none", "-o", "csv")
    assert text.startswith("rank,host,host_id,close_wait,")
    assert len(text.splitlines()) == 1


def test_top_of_an_empty_ranking_says_so(server: str) -> None:
    """And is no failure."""
    assert "no samples in the window" in good(server, "top", "hosts", "--label", "role=none")
    assert json.loads(good(server, "top", "hosts", "--label", "role=none", "-o", "json")) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["table", "wide"])
def test_hostile_names_can_do_nothing_to_the_terminal(server: str, kind: str, output: str) -> None:
    """They are written out, and their markup is text."""
    text = good(server, "top", kind, "-o", output)
    assert "\x1b" not in text
    assert r"\x1b[31m" in text
    if output == "wide":
        assert r"\x1b[31m[red]=evil" in text


def test_top_ranks_groups_by_the_value_of_a_label(server: str) -> None:
    """A row each; the hosts without it are one row without a name, in every form."""
    arguments = ("top", "groups", "--group-by", "role")
    heading, titles, *lines = good(server, *arguments).splitlines()
    assert heading == "groups of role by close-wait-growth, last 1h"
    assert titles.split() == ["#", "GROUP", "HOSTS", "SILENT", "CLOSE_WAIT", "GROWTH/h", "r²", "TREND", "CAUSE", "FD%"]
    assert [line.split()[:6] for line in lines[:3]] == [
        ["1", "web", "1", "0", "13", "+120"],
        ["2", "db", "1", "0", "5", "0"],
        ["3", "-", "1", "1", "3", "-"],
    ]
    assert "TW-MEAN" in good(server, *arguments, "-o", "wide").splitlines()[1]
    assert [row["group"] for row in json.loads(good(server, *arguments, "-o", "json"))] == ["web", "db", None]
    assert [row["group"] for row in rows_of_csv(good(server, *arguments, "-o", "csv"))] == ["web", "db", ""]
    _, _, first, *_ = good(server, *arguments, "--by", "time-wait", "--label", "role=db").splitlines()
    assert first.split()[:5] == ["1", "db", "1", "0", "5"]
    (other,) = json.loads(good(server, "top", "groups", "--group-by", "rack", "-o", "json"))
    assert (other["group"], other["hosts"], other["silent_hosts"]) == (None, 3, 1)


def test_a_label_that_is_none_is_refused(server: str) -> None:
    """By the aggregator, whose rule it is."""
    assert "label is not the name of a label" in failure(server, "top", "groups", "--group-by", "no spaces")


def test_groups_need_a_label_also_where_nobody_answers() -> None:
    """It is said all the same, and why the labels are not."""
    said = " ".join(bad_usage("127.0.0.1:1", "top", "groups").split())
    assert "groups need --group-by LABEL; no aggregator answers at 127.0.0.1:1" in said


def test_wide_hosts_have_their_labels(server: str) -> None:
    """And JSON."""
    titles, first = good(server, "top", "hosts", "-o", "wide").splitlines()[1:3]
    assert titles.split()[-1] == "LABELS"
    assert first.split()[-1] == "role=web"
    labels = [row["labels"] for row in json.loads(good(server, "top", "hosts", "-o", "json"))]
    assert labels == [{"role": "web"}, {"role": "db"}, {}]


def test_top_can_rank_by_another_measure(server: str) -> None:
    """The heading says which."""
    for by, first in (("close-wait", "web-1"), ("time-wait", "db-1"), ("time-wait-max", "db-1")):
        heading, _, line, *_ = good(server, "top", "hosts", "--by", by).splitlines()
        assert heading == f"hosts by {by}, last 1h"
        assert line.split()[1] == first


def test_a_ranking_by_time_wait_shows_time_wait(server: str) -> None:
    """In the place of growth; and says why processes can not be ranked by it."""
    titles = good(server, "top", "hosts", "--by", "time-wait-max").splitlines()[1].split()
    assert {"TIME_WAIT", "TW-MEAN", "TW-MAX"} < set(titles)
    assert "GROWTH/h" not in titles
    assert "keeps no owner" not in good(server, "top", "hosts", "--by", "time-wait")
    assert "the kernel keeps no owner of TIME_WAIT sockets" in good(server, "top", "processes", "--by", "time-wait")
    assert "keeps no owner" in run(server, "top", "apps", "--by", "time-wait", "-o", "json").stderr


def test_the_processes_of_a_host_can_be_ranked_by_another_measure(server: str) -> None:
    """With the columns that fit it."""
    assert "GROWTH/h" in good(server, "host", "web-1", "--by", "fd-share")
    assert "TW-MEAN" in good(server, "host", "web-1", "--by", "time-wait")
    assert "'rss' is not one of" in bad_usage(server, "host", "web-1", "--by", "rss")


def test_top_takes_labels_a_limit_and_a_window(server: str) -> None:
    """Each narrows the answer."""

    def hosts(*arguments: str) -> list[str]:
        return [row["host"] for row in json.loads(good(server, "top", "hosts", "-o", "json", *arguments))]

    assert hosts() == ["web-1", "db-1", HOSTILE]
    assert hosts("--limit", "1") == ["web-1"]
    assert hosts("--label", "role=db") == ["db-1"]
    assert hosts("--label", "role=db", "--label", "dc=fra1") == []
    assert hosts("--window", "10m") == ["web-1", "db-1"]
    rows: list[dict[str, Any]] = json.loads(good(server, "top", "hosts", "-o", "json", "--window", "90s"))
    assert [row["samples"] for row in rows] == [2, 2]


def test_host_shows_one_host(server: str) -> None:
    """States, trend, processes, labels and coverage, in 80 columns."""
    text = good(server, "host", "web-1")
    assert text.startswith("web-1  kernel 6.8.0-45-generic, agent 0.1.0, every 10s\n")
    assert "labels role=web" in text
    assert "over the last 1h:" in text
    assert "+120/h, r² 1.00, at most 13" in text
    assert "file handles: 2,000 of 10,000 (20.0 %)" in text
    assert "2 of 90 processes unreadable" in " ".join(text.split())
    assert "read by sock_diag; 12 of 13 sockets charged" in " ".join(text.split())
    assert max(map(cell_len, text.splitlines())) <= 80
    words = text.split()
    assert words[words.index("CLOSE_WAIT") + 1] == "13"
    assert words[words.index("LISTEN") + 1] == "-"


def test_host_is_found_by_its_id_too(server: str) -> None:
    """Names are not always unique."""
    assert good(server, "host", host_id("web-1")) == good(server, "host", "web-1")


def test_host_json_has_everything(server: str) -> None:
    """Identity, figures, counts, coverage and processes; unknown is null."""
    document = json.loads(good(server, "host", "web-1", "-o", "json"))
    assert (document["host"], document["host_id"], document["labels"]) == ("web-1", host_id("web-1"), {"role": "web"})
    assert document["close_wait_growth_per_hour"] == pytest.approx(120)
    assert document["interval_seconds"] == 10
    assert document["sampler"] == "sock_diag"
    assert document["last_sample"] == "2027-01-15T08:00:00.000Z"
    assert document["tcp_states"]["close_wait"] == 13
    assert document["tcp_states"]["listen"] is None
    assert document["coverage"]["namespaces_unread"] == 1
    assert document["coverage"]["namespaces_by_procfs"] == 2
    assert document["coverage"]["dump_torn"] is False
    assert [(row["rank"], row["pid"]) for row in document["processes"]] == [(1, 100)]


def test_namespaces_read_by_procfs_are_said_beneath(server: str) -> None:
    """Of a host, in a ranking and of the fleet; not where there are none."""
    assert "2 network namespaces read from /proc/PID/net/tcp, which tells less\n" in good(server, "host", "web-1")
    for verb in (("top", "hosts"), ("top", "processes"), ("top", "apps"), ("fleet",)):
        assert "namespaces read by procfs: 4" in " ".join(good(server, *verb).split())
    assert json.loads(good(server, "fleet", "-o", "json"))["coverage"]["namespaces_by_procfs"] == 4
    assert "/proc/PID" not in good(server, "host", "new")
    assert "/proc/PID" not in good(server, "host", host_id("evil"))


def test_host_csv_is_its_processes(server: str) -> None:
    """With the columns of a ranking of processes."""
    (row,) = rows_of_csv(good(server, "host", "web-1", "-o", "csv"))
    assert (row["rank"], row["host"], row["pid"], row["close_wait"]) == ("1", "web-1", "100", "13")


def test_host_wide_shows_more_of_its_processes(server: str) -> None:
    """Columns that the narrow table leaves out."""
    assert "STARTED" in good(server, "host", "web-1", "-o", "wide")
    assert "STARTED" not in good(server, "host", "web-1")


def test_host_without_a_sample_is_shown_as_what_it_said(server: str) -> None:
    """In every form."""
    assert good(server, "host", "new").endswith("\nno samples kept\n")
    document = json.loads(good(server, "host", "new", "-o", "json"))
    assert (document["last_sample"], document["sampler"], document["close_wait"]) == (None, None, None)
    assert len(good(server, "host", "new", "-o", "csv").splitlines()) == 1


def test_an_unknown_host_fails_with_the_names_that_come_close(server: str) -> None:
    """And with none where none does."""
    assert failure(server, "host", "wbe-1").startswith("Error: no host 'wbe-1' has reported; did you mean web-1")
    assert failure(server, "host", "zzzzzz") == "Error: no host 'zzzzzz' has reported\n"
    assert "\x1b" not in failure(server, "host", "\x1b[31m[red]=evol")


def test_fleet_shows_totals_trends_and_the_silent(server: str) -> None:
    """In 80 columns."""
    text = good(server, "fleet")
    assert text.startswith("fleet now; trends over the last 1h\n")
    words = text.split()
    assert words[words.index("CLOSE_WAIT") + 1] == "18"
    assert words[words.index("TIME_WAIT") + 1] == "970"
    assert words[words.index("LISTEN") + 1] == "-"
    assert "SILENT HOST" in text
    assert r"\x1b[31m[red]=evil 2027-01-15T07:30:00.000Z" in " ".join(words)
    assert "3 of 4 hosts reporting" in " ".join(words)
    assert max(map(cell_len, text.splitlines())) <= 80


def test_fleet_json_has_everything(server: str) -> None:
    """Unknown is null, also in trends."""
    document = json.loads(good(server, "fleet", "-o", "json"))
    assert document["tcp_states"]["close_wait"] == 18
    assert document["tcp_states"]["listen"] is None
    assert document["coverage"]["hosts"] == 4
    assert document["coverage"]["sockets_attributed"] == 24
    assert document["aggregator"]["start_time"] == "2027-01-15T08:00:00.000Z"
    assert (document["aggregator"]["version"], document["aggregator"]["reports_stored"]) == (version(), 0)
    assert [(host["host"], host["last_report"]) for host in document["silent_hosts"]] == [
        (HOSTILE, "2027-01-15T07:30:00.000Z")
    ]
    assert len(document["close_wait_trend"]) == 20
    assert document["close_wait_trend"][0] is None


def test_fleet_csv_is_a_list_of_figures(server: str) -> None:
    """Unknown is empty."""
    figures = {row["figure"]: row["value"] for row in rows_of_csv(good(server, "fleet", "-o", "csv"))}
    assert (figures["close_wait"], figures["listen"], figures["hosts_silent"]) == ("18", "", "1")


def test_fleet_wide_and_labels(server: str) -> None:
    """A label narrows the totals."""
    assert good(server, "fleet", "-o", "wide").startswith("fleet now")
    document = json.loads(good(server, "fleet", "-o", "json", "--label", "role=db"))
    assert (document["tcp_states"]["close_wait"], document["coverage"]["hosts"]) == (5, 1)


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o nosort"), ("zsh", "#compdef"), ("fish", "complete ")]
)
def test_completion_prints_a_script_for_each_shell(shell: str, mark: str) -> None:
    """It asks no aggregator."""
    script = good("127.0.0.1:1", "completion", shell)
    assert mark in script
    assert f"_LOITER_COMPLETE={shell}_complete" in script


def test_completion_completes_verbs_and_choices() -> None:
    """What the script asks for is answered."""

    def completed(words: str, index: str) -> set[str]:
        environment = {"_LOITER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": index}
        result = CliRunner().invoke(loiter, [], prog_name="loiter", complete_var=None, env=environment)
        return {line.partition(",")[2] for line in result.stdout.splitlines()}

    assert completed("loiter ", "1") == set(VERBS)
    assert completed("loiter top ", "2") == {*KINDS, "groups"}
    assert completed("loiter top groups --group", "3") == {"--group-by"}


@pytest.mark.parametrize(
    "arguments", [("top", "hosts"), ("top", "apps", "-o", "json"), ("host", "web-1"), ("fleet", "-o", "csv")]
)
def test_no_aggregator_is_a_failure_in_words(arguments: tuple[str, ...]) -> None:
    """It says where it looked and what may be wrong."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = failure(address, *arguments)
    assert said.startswith(f"Error: no aggregator answers at {address}; is 'loiter serve' running there?")


def test_host_says_since_when_processes_are_left_out(tmp_path: Path) -> None:
    """They are shown as they were last, which is not as of the latest sample."""
    store = open_store(tmp_path)
    counted = sample(NOW, 5)
    counted.degradation = sample_pb2.DEGRADATION_COUNTS_ONLY
    store_samples(store, "web-1", [sample(NOW - MINUTE, 4, processes=[process(100, 4)]), counted])
    store_samples(store, "web-2", [sample(NOW, 4, processes=[process(100, 4)])])
    with serving_in_background(store, FakeClock()) as address:
        said = good(address, "host", "web-1")
        assert "processes as of" not in good(address, "host", "web-2")
    store.close()
    lines = said.splitlines()
    at = lines.index("processes as of 2027-01-15T07:59:00.000Z; since then they are left out:")
    assert lines[at + 2].split()[:4] == ["1", "100", "gateway.service", "4"]


def test_an_aggregator_that_takes_too_long_says_so_itself(tmp_path: Path) -> None:
    """With what to do about it, in its own words."""
    store = open_store(tmp_path)
    with serving_in_background(store, FakeClock(), query_seconds=0) as address:
        said = failure(address, "fleet")
    store.close()
    assert said.startswith(f"Error: the aggregator at {address} gave up: no answer within 0ms (limits.query_seconds")
    assert "ask for a shorter window" in said


def test_an_aggregator_that_has_too_much_to_do_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not failed, and says why. An answer that is too large, by the same code of gRPC, is no such thing."""
    monkeypatch.setattr("loiter_aggregator.fleet.sockets._BURST", 1.0)
    monkeypatch.setattr("loiter_aggregator.fleet.sockets._RATE", 0.001)
    store = open_store(tmp_path)
    with serving_in_background(store, FakeClock()) as address:
        failure(address, "sockets", "web-1")
        said = failure(address, "sockets", "web-1")
        monkeypatch.setattr("loiter_aggregator.client._MAX_ANSWER_BYTES", 8)
        too_large = failure(address, "fleet")
    store.close()
    assert said.startswith(f"Error: the aggregator at {address} is busy: sockets can be asked for 1 times at once")
    assert f"the aggregator at {address} failed: RESOURCE_EXHAUSTED: " in too_large


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("top",), "Missing argument"),
        (("top", "containers"), "'containers' is not one of 'hosts', 'processes', 'apps'"),
        (("top", "hosts", "--wnidow", "1h"), "No such option"),
        (("top", "hosts", "--window", "yesterday"), "'yesterday' is not a duration; write it as 500ms, 10s"),
        (("top", "hosts", "--window", "0s"), "is not between 1s and 366d"),
        (("top", "hosts", "--window", "367d"), "is not between 1s and 366d"),
        (("top", "hosts", "--window", "-1h"), "is not a duration"),
        (("top", "hosts", "--label", "role"), "is not of the form key=value"),
        (("top", "hosts", "--label", "no spaces=x"), "is not a label name"),
        (("top", "hosts", "--by", "rss"), "'rss' is not one of"),
        (("top", "hosts", "--limit", "0"), "not in the range"),
        (("top", "hosts", "--limit", "10001"), "not in the range"),
        (("top", "hosts", "-o", "xml"), "'xml' is not one of"),
        (("top", "hosts", "--server", "nowhere"), "is not HOST:PORT"),
        (("host",), "Missing argument"),
        (("host", "web-1", "web-2"), "unexpected extra argument"),
        (("fleet", "--window", "soon"), "is not a duration"),
        (("top", "groups"), "groups need --group-by LABEL; hosts carry role"),
        (("top", "hosts", "--group-by", "role"), "--group-by is for groups alone"),
        (("completion", "tcsh"), "'tcsh' is not one of"),
        (("tpo",), "No such command"),
    ],
)
def test_wrong_usage_exits_with_two_and_says_what_would_be_right(
    server: str, arguments: tuple[str, ...], said: str
) -> None:
    """Nothing is printed to standard output."""
    assert said in " ".join(bad_usage(server, *arguments).split())


def test_the_server_is_taken_from_the_flag_before_the_environment(server: str) -> None:
    """And the first of several, as the agent's setting may hold."""
    assert good("127.0.0.1:1", "fleet", "--server", server)
    assert good(f"{server},127.0.0.1:1", "fleet")


def test_help_lists_every_verb_and_every_verb_has_help() -> None:
    """With and without an aggregator."""
    text = good("127.0.0.1:1", "--help")
    for verb in VERBS:
        assert verb in text
        assert good("127.0.0.1:1", verb, "-h").startswith(f"Usage: loiter {verb}")


def test_the_version_is_that_of_the_distribution() -> None:
    """One line."""
    assert good("127.0.0.1:1", "--version") == f"loiter {version()}\n"


def flat(text: str) -> str:
    """The words, wherever the lines were broken."""
    return " ".join(text.split())


def test_host_says_what_is_the_matter_with_it(troubled: str) -> None:
    """Its clock, what its agent leaves out, what waits on it, and what is lost."""
    said = flat(good(troubled, "host", host_id("host-1")))
    assert "clock 1h 2m behind: 2027-01-15T06:58:00.000Z at the latest sample" in said
    assert "degraded: no_detail; the agent used 3.1 % of a processor, its budget is 2.0 %" in said
    assert "1,234 reports waited on the host, 5.6 MB, in memory: the disk does not take them" in said
    assert "LOST FROM TO WHY - - - spool_corrupt 4,800 2027-01-15T07:30:00.000Z 2027-01-15T07:58:00.000Z" in said
    document = json.loads(good(troubled, "host", host_id("host-1"), "-o", "json"))
    assert document["clock_skew_seconds"] == 3_720
    assert document["latest_agent_time"] == "2027-01-15T06:58:00.000Z"
    assert document["last_sample"] == "2027-01-15T08:00:00.000Z"
    assert document["degradation"] == "no_detail"
    assert document["spool"] == {"waiting_reports": 1_234, "waiting_bytes": 5_600_000, "in_memory": True}
    assert (document["cost"]["cpu_share"], document["cost"]["cpu_budget"]) == (0.031, 0.02)
    assert document["lost_samples"] == [
        {"first_time": None, "last_time": None, "samples": None, "reason": "spool_corrupt"},
        {
            "first_time": "2027-01-15T07:30:00.000Z",
            "last_time": "2027-01-15T07:58:00.000Z",
            "samples": 4_800,
            "reason": "spool_full",
        },
    ]


def test_a_host_that_nothing_is_the_matter_with_says_nothing(server: str) -> None:
    """In JSON, none is none, and what an older agent does not say is null."""
    text = good(server, "host", "web-1") + good(server, "fleet") + good(server, "top", "hosts")
    for word in ("clock", "degraded", "waited", "LOST", "LOSING HOST", "CLOCK OFF", "LEFT OUT", "SAME ID", "budget"):
        assert word not in text
    document = json.loads(good(server, "host", "web-1", "-o", "json"))
    assert (document["clock_skew_seconds"], document["degradation"], document["lost_samples"]) == (0, "none", [])
    assert document["spool"] is None
    document = json.loads(good(server, "host", "new", "-o", "json"))
    assert (document["clock_skew_seconds"], document["latest_agent_time"], document["degradation"]) == (
        None,
        None,
        None,
    )


def test_fleet_names_the_hosts_that_something_is_the_matter_with(troubled: str) -> None:
    """Each with how much of it, at most --limit of them, the rest counted."""
    text = flat(good(troubled, "fleet", "--limit", "5"))
    for heading in ("LOSING HOST SAMPLES", "CLOCK OFF BY", "LEFT OUT STEP", "SAME ID FROM REFUSED FROM"):
        assert heading in text
    assert "<script>alert(1)</script> 4,800" in text
    assert "<script>alert(1)</script> 1h 2m behind" in text
    assert "<script>alert(1)</script> no_detail" in text
    assert text.count("and 2 more; -o json lists up to 1,000") == 4
    counted = "hosts that lost samples: 7; hosts with a wrong clock: 7; hosts over their budget: 7"
    for verb in (("fleet",), ("top", "hosts"), ("top", "processes"), ("top", "apps")):
        assert counted in flat(good(troubled, *verb))
    document = json.loads(good(troubled, "fleet", "-o", "json"))
    script = next(place for place, name in enumerate(NASTY) if name.startswith("<"))
    same = {"host": NASTY[script], "host_id": host_id(f"host-{script}")}
    assert {**same, "samples": 4_800} in document["losing_hosts"]
    assert {**same, "clock_skew_seconds": 3_720} in document["skewed_hosts"]
    assert {**same, "degradation": "no_detail"} in document["degraded_hosts"]
    assert document["conflicts"][script] == {
        "host": NASTY[script],
        "host_id": host_id("host-0"),
        "peer": NASTY[script],
        "refused_host": NASTY[script],
        "refused_peer": NASTY[script],
        "last_time": "2027-01-15T08:00:00.000Z",
    }


TABLES = [
    *(("top", kind, "--by", by) for kind in KINDS for by in ("close-wait-growth", "ports")),
    ("top", "groups", "--group-by", "role"),
    ("fleet",),
    *(("host", host_id(f"host-{place}")) for place in range(len(NASTY))),
    *(("explain", host_id(f"host-{place}"), "100") for place in range(len(NASTY))),
]


@pytest.mark.parametrize("arguments", TABLES, ids=" ".join)
def test_nothing_that_a_host_wrote_reaches_the_terminal_as_more_than_text(
    troubled: str, arguments: tuple[str, ...]
) -> None:
    """Controls, overrides and piles of marks are written out, markup is shown as it is, and 80 columns are kept."""
    forms = ("table",) if arguments[0] == "explain" else ("table", "wide")
    for form in forms:
        result = run(troubled, *arguments, "-o", form)
        assert result.exit_code == 0, result.output
        lines = result.output.split("\n")
        assert all(line.isprintable() for line in lines)
        assert 5 * "\u0301" not in result.output
        if form == "table" and arguments[0] != "explain":  # its commands are never broken
            assert max(map(cell_len, lines)) <= 80


@pytest.mark.parametrize("arguments", TABLES, ids=" ".join)
def test_nothing_that_a_host_wrote_is_a_formula_in_csv_or_more_than_text_in_json(
    troubled: str, arguments: tuple[str, ...]
) -> None:
    """What goes to standard error beside it included."""
    if arguments[0] != "explain":
        result = run(troubled, *arguments, "-o", "csv")
        assert result.exit_code == 0, result.output
        assert all(line.isprintable() for line in (result.stdout + result.stderr).replace("\r\n", "\n").split("\n"))
        for row in csv.reader(io.StringIO(result.stdout, newline="")):
            assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in row)
    result = run(troubled, *arguments, "-o", "json")
    assert json.loads(result.stdout)
    assert all(line.isprintable() for line in result.output.split("\n"))


def test_an_error_says_a_nasty_name_as_text(troubled: str) -> None:
    """The name that was asked for, and those that come close."""
    for name in NASTY:
        said = failure(troubled, "host", name.replace("\0", "") + "x")
        assert said.rstrip("\n").isprintable()
