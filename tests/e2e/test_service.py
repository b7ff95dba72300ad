"""The agent and the aggregator as they run for months: ended, restarted, told to read their settings again."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import duckdb

from support.programs import Aggregator, agent_command, aggregator, ask, free_port, run, running, wait_until
from support.spools import waiting


def _stored(folder: Path) -> list[int]:
    """The sequences in the store of a stopped aggregator, as far as its high-water marks tell, and its host rows."""
    with duckdb.connect(str(folder / "store/loiter.duckdb"), read_only=True) as connection:
        marks = connection.execute("SELECT sequence FROM high_water ORDER BY updated").fetchall()
        rows = connection.execute("SELECT count(*), count(DISTINCT ts) FROM host_sample").fetchall()[0]
    return [sum(sequence for (sequence,) in marks), *rows]


def test_nothing_is_lost_or_doubled_when_the_aggregator_restarts(tmp_path: Path) -> None:
    """The agent says once that the aggregator is away, goes on sampling, and delivers what it kept."""
    server = Aggregator(tmp_path)
    server.start()
    with running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log") as agent:
        wait_until(lambda: ask(server.server, "top", "hosts"), 20, "the agent reports")
        server.stop(signal.SIGKILL)
        agent.wait_for_log("cannot report to")
        # Several tries fail meanwhile: they are not said again.
        wait_until(lambda: agent.process.poll() is None, 1, "the agent lives on")
        server.start()
        agent.wait_for_log("again after", 60)
        before = ask(server.server, "host", _only_host(server.server))["samples"]
        wait_until(lambda: ask(server.server, "host", _only_host(server.server))["samples"] > before, 20, "new samples")
        assert agent.stop() == 0
        assert agent.logged().count("cannot report to") == 1
        assert "lost" not in agent.logged()
    assert server.stop() == 0
    last_sequence, rows, distinct = _stored(tmp_path)
    assert rows == distinct == last_sequence


def _only_host(server: str) -> str:
    hosts = ask(server, "top", "hosts")
    assert len(hosts) == 1
    return str(hosts[0]["host"])


def test_sigterm_ends_both_cleanly_with_everything_delivered(tmp_path: Path) -> None:
    """Exit status 0, nothing in the log that looks like an accident, every report in the store."""
    with aggregator(tmp_path) as server:
        with running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log") as agent:
            wait_until(lambda: ask(server.server, "top", "hosts"), 20, "the agent reports")
            assert agent.stop() == 0
            assert "lost" not in agent.logged()
            assert "Traceback" not in agent.logged()
        assert server.stop() == 0
        assert "Traceback" not in server.program.logged()
    last_sequence, rows, distinct = _stored(tmp_path)
    assert rows == distinct == last_sequence >= 1


def test_an_aggregator_that_stops_tells_its_agents_so(tmp_path: Path) -> None:
    """What has come in is acknowledged, streams end in order, and neither log holds an accident."""
    with (
        aggregator(tmp_path) as server,
        running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log") as agent,
    ):
        agent.wait_for_log("reporting to")
        assert server.stop() == 0
        agent.wait_for_log("the aggregator is stopping")
        assert "Traceback" not in server.program.logged()
        assert "stopped: " in server.program.logged()
        assert agent.stop() == 0
        assert "Traceback" not in agent.logged()


def test_sighup_reads_the_settings_again(tmp_path: Path) -> None:
    """New labels and a new interval are in force at once; settings that are wrong change nothing."""
    config = tmp_path / "agent.toml"
    config.write_text('interval = "30m"\n[labels]\nrole = "old"\n')
    with aggregator(tmp_path) as server:
        command = agent_command(server.server, tmp_path, "--config", str(config))
        at = command.index("--interval")
        del command[at : at + 2]
        with running(command, tmp_path / "agent.log") as agent:
            agent.wait_for_log("reporting to")
            config.write_text('interval = "none"\n')
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log("settings not reloaded")
            assert f"{config}:1: interval" in agent.logged()

            config.write_text('interval = "500ms"\n[labels]\nrole = "new"\n')
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log("settings reloaded")
            rows = wait_until(
                lambda: [
                    row for row in ask(server.server, "top", "hosts", "--label", "role=new") if row["samples"] > 2
                ],
                20,
                "samples at the new interval under the new label",
            )
            assert len(rows) == 1
            assert ask(server.server, "top", "hosts", "--label", "role=old") == []
            assert ask(server.server, "host", str(rows[0]["host"]))["interval_seconds"] == 0.5
            assert agent.stop() == 0


def test_what_is_not_delivered_stays_in_the_spool_for_the_next_start(tmp_path: Path) -> None:
    """It says how many reports stay; they arrive, each once, when an agent starts again and an aggregator is there."""
    server = Aggregator(tmp_path)
    command = agent_command(server.server, tmp_path, interval="500ms")
    with running(command, tmp_path / "first.log") as agent:
        agent.wait_for_log("cannot report to")
        wait_until(lambda: len(waiting(tmp_path / "agent-state", tmp_path)) > 2, 20, "some reports wait")
        assert agent.stop() == 0
        kept = re.search(r"(\d+) reports stay in the spool and are sent at the next start", agent.logged())
        assert kept, agent.logged()
        assert "lost" not in agent.logged()
    server.start()
    with running(command, tmp_path / "second.log") as agent:
        agent.wait_for_log("reporting to")
        wait_until(
            lambda: ask(server.server, "top", "hosts")[0]["samples"] > int(kept[1]), 20, "the old reports and a new one"
        )
        assert agent.stop() == 0
    assert server.stop() == 0
    last_sequence, rows, distinct = _stored(tmp_path)
    assert rows == distinct == last_sequence > int(kept[1]) > 2


def test_sighup_takes_the_agent_to_another_aggregator(tmp_path: Path) -> None:
    """At once, whatever it waits for; a file that can not be read leaves all as it was."""
    config = tmp_path / "agent.toml"
    config.write_text(f'server = "127.0.0.1:{free_port()}"\n')
    with aggregator(tmp_path) as server:
        command = agent_command(server.server, tmp_path, "--config", str(config), interval="500ms")
        at = command.index("--server")
        del command[at : at + 2]
        with running(command, tmp_path / "agent.log") as agent:
            agent.wait_for_log("cannot report to")
            config.write_text(f'server = "{server.server}"\n[tls]\nca = "{tmp_path}/none.pem"\n')
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log(
                f"settings not reloaded, the old ones stay in force: tls.ca: cannot read {tmp_path}/none.pem"
            )
            assert "reporting to" not in agent.logged()
            config.write_text(f'server = "{server.server}"\n[spool]\nmax_bytes = "2MB"\nmax_age = "1h"\n')
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log(f"reporting to {server.server}", 5)
            assert agent.stop() == 0


def test_a_state_directory_is_of_one_agent_alone(tmp_path: Path) -> None:
    """A second one says so and ends, and the first goes on."""
    command = agent_command(f"127.0.0.1:{free_port()}", tmp_path)
    with running(command, tmp_path / "first.log") as first:
        first.wait_for_log("cannot report to")
        second = run(command)
        assert second.returncode == 1
        assert str(tmp_path / "agent-state") in second.stderr
        assert "Traceback" not in second.stderr
        assert first.process.poll() is None


def test_a_host_that_stops_reporting_is_silent(tmp_path: Path) -> None:
    """After three intervals, five seconds at least, it is listed as silent and its rows are marked."""
    with aggregator(tmp_path) as server:
        with running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log"):
            wait_until(lambda: ask(server.server, "top", "hosts"), 20, "the agent reports")
        silent = wait_until(lambda: ask(server.server, "fleet")["silent_hosts"], 20, "the host is listed as silent")
        assert [host["host"] for host in silent] == [_only_host(server.server)]
        assert ask(server.server, "top", "hosts")[0]["silent"] is True
        assert ask(server.server, "fleet")["coverage"]["hosts_reporting"] == 0
        # Totals are those of reporting hosts: with none, they are not known.
        assert ask(server.server, "fleet")["tcp_states"]["established"] is None


def test_ticks_that_could_not_run_are_counted(tmp_path: Path) -> None:
    """An agent that was stopped for a while skips what it missed, says so in each report, and goes on."""
    with (
        aggregator(tmp_path) as server,
        running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log") as agent,
    ):
        name = str(wait_until(lambda: ask(server.server, "top", "hosts"), 20, "the agent reports")[0]["host"])
        before = ask(server.server, "host", name)["cost"]["late_ticks"]  # 0, unless this machine is overloaded
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(4)  # a process that is stopped has no fake clock
        agent.process.send_signal(signal.SIGCONT)
        wait_until(lambda: ask(server.server, "host", name)["cost"]["late_ticks"] > before, 20, "late ticks")
        assert agent.logged().count("a tick did not run at its time") == 1
        assert "Traceback" not in agent.logged()


def test_the_agent_does_without_openssl(tmp_path: Path) -> None:
    """Its libraries would take 3.4 MB on every host, and gRPC brings its own TLS."""
    with (
        aggregator(tmp_path) as server,
        running(agent_command(server.server, tmp_path), tmp_path / "agent.log") as agent,
    ):
        agent.wait_for_log("reporting to")
        maps = Path(f"/proc/{agent.pid}/maps").read_text()
    assert "cygrpc" in maps
    assert "libcrypto" not in maps
    assert "libssl" not in maps
