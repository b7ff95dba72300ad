"""Explanations name the figures, say who closed first, and hand nobody a command that a host has written."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from loiter.v1 import fleet_service_pb2 as fleet
from loiter.v1 import sample_pb2 as pb
from loiter_aggregator.explanation import Explanation, explain, facts_of
from support.reports import explained, full_report, process, sample

HOSTILE = "$(reboot);`reboot`|reboot\n\x1b[31m'"


def explanation(
    one: pb.ProcessSample, taken: pb.Sample | None = None, rank: fleet.ProcessRank | None = None
) -> Explanation:
    """Explains a process of a sample."""
    taken = sample(processes=[one]) if taken is None else taken
    return explain(facts_of(taken, one, fleet.ProcessRank() if rank is None else rank))


def finding(found: Explanation, question: str) -> str:
    """What was found for the question that begins so; empty where it was not asked."""
    return next((step.finding for step in found.steps if step.question.startswith(question)), "")


def with_evidence(cause: pb.Cause.ValueType, **counts: int) -> pb.ProcessSample:
    """A process with 40 CLOSE_WAIT sockets, 30 of which stay, and what was observed of them."""
    one = explained(process(4_711, 40, sockets=50, fd_open=60, fd_limit=1_024), cause, settled=30)
    for name, count in counts.items():
        setattr(one.evidence, name, count)
    return one


@pytest.mark.parametrize(
    ("cause", "verdict", "remedy"),
    [
        (pb.CAUSE_LEAK, "It leaks: 30 sockets", "Close the socket"),
        (pb.CAUSE_IDLE_POOL, "30 sockets in a pool", "idle timeout"),
        (pb.CAUSE_STALLED_READER, "It does not read: 30 sockets", "thread dump"),
        (pb.CAUSE_CPU_STARVED, "too little processor time to close 30 sockets", "CPUQuota="),
        (pb.CAUSE_NEVER_ACCEPTED, "It does not accept: 30 sockets", "accept()"),
        (pb.CAUSE_UNKNOWN, "does not tell why", "not seen"),
    ],
)
def test_every_cause_has_a_verdict_and_a_remedy(cause: pb.Cause.ValueType, verdict: str, remedy: str) -> None:
    """With the number of sockets that stay, and who closed first."""
    found = explanation(with_evidence(cause))
    assert verdict in found.verdict
    assert any(remedy in one for one in found.remedies)
    assert finding(found, "Who closed first").startswith("The other side")


def test_every_cause_is_known_here() -> None:
    """One that is added to the wire must be explained, too."""
    verdicts = {explanation(with_evidence(cause)).verdict for cause in pb.Cause.values()}
    assert len(verdicts) == len(pb.Cause.values())


def test_the_steps_carry_the_figures() -> None:
    """Counts, ages, growth, queues, threads, processor, peers, TIME_WAIT, ports and descriptors."""
    taken = full_report().sample
    rank = fleet.ProcessRank(
        close_wait=fleet.CloseWaitTrend(current=9, maximum=12, growth_per_hour=120, growth_fit=0.99, samples=360),
        fd_forecast=fleet.FdForecast(
            seconds=7_200, earliest_seconds=6_000, latest_seconds=9_000, growth_per_hour=312, close_wait_share=0.4
        ),
    )
    found = explanation(taken.processes[0], taken, rank)
    assert finding(found, "Does it hold") == "9 sockets of its 320; 12 at most in the window."
    assert finding(found, "Do they stay") == (
        "Half have been so for 1h or longer, one in a hundred for 2h or longer, the oldest for 3h. "
        "9 are older than a minute. Of those in the sample before, 90 % are still there."
    )
    assert finding(found, "Does their number") == "By +120 sockets an hour, over 360 samples, with an r² of 0.99."
    assert finding(found, "Has the program read").startswith(
        "Of 9 that stay: 6 read to the end and not closed (Recv-Q 0); 1"
    )
    assert finding(found, "Has the program read").endswith("7 were opened by this host.")
    assert finding(found, "Does it accept") == (
        "Waiting in the accept queue of its listener: 1; there is room for 128."
    )
    assert finding(found, "What are its threads") == (
        "15 asleep; 1 running (threads looked at: 16). They sleep in 12 futex_wait_queue; 3 ep_poll."
    )
    assert "A thread waited for a processor 1 % of the time" in finding(found, "Does it get the processor")
    assert finding(found, "Who is at the other end") == "7 to 10.0.0.5:443; 2 to 2001:db8::7."
    waits = finding(found, "Does it leave sockets in TIME_WAIT")
    assert waits.startswith("Yes, 1,200. This host closed first")
    assert "for 1m" in waits
    assert "1,200 towards 10.0.0.5:443, 20 closes a second (the same connections were seen while it held" in waits
    ports = finding(found, "Are there ports")
    assert "7,000 of 28,000 ports used towards 10.0.0.5:443" in ports
    assert "none is left in 1h" in ports
    descriptors = finding(found, "Are there file descriptors")
    assert "400 of 1,024 are open. 320 of them are TCP sockets." in descriptors
    assert "grow by 312 an hour and are used up in 2h (1h 40m to 2h 30m with 95 % confidence)" in descriptors
    assert "CLOSE_WAIT explains 40 % of that growth" in descriptors
    assert any("hard one, 4,096" in one for one in found.remedies)


def test_what_was_not_seen_is_named() -> None:
    """Of the process, and of the host."""
    found = explanation(full_report().sample.processes[0], full_report().sample)
    assert any(one.startswith("What 4 of its 20 threads do") for one in found.unseen)
    assert "Sockets of the host whose holder was not found: 2." in found.unseen
    assert "TIME_WAIT sockets of the host whose owner was not found: 2,200." in found.unseen
    running = with_evidence(pb.CAUSE_CPU_STARVED)
    running.evidence.thread_states["R"] = 1
    assert not any("sleep" in one for one in explanation(running).unseen)
    running.evidence.thread_states["S"] = 1
    assert any("/proc/PID/wchan" in one for one in explanation(running).unseen)
    blind = explanation(process(7, 5))
    assert "Its CLOSE_WAIT sockets could not be looked into: neither their queues nor its threads." in blind.unseen
    assert "How long its sockets have been in CLOSE_WAIT." in blind.unseen
    assert "Its file descriptors or their limit." in blind.unseen
    assert explanation(process(7)).verdict == "How many CLOSE_WAIT sockets it holds is unknown."
    silent = explanation(process(7, 5), rank=fleet.ProcessRank(silent=True))
    assert silent.unseen[0].startswith("The host fell silent")


def test_a_process_without_close_wait_is_told_of_what_else_there_is() -> None:
    """TIME_WAIT, ports and descriptors."""
    taken = full_report().sample
    one = taken.processes[0]
    fresh = process(one.pid, 0, start=0, fd_open=400, fd_limit=1_024)
    fresh.start_time.CopyFrom(one.start_time)
    taken.ports[0].used = 27_000
    found = explanation(fresh, taken)
    assert found.verdict == (
        "It holds no CLOSE_WAIT sockets. But it uses up the ephemeral ports towards a destination."
    )
    assert finding(found, "Does it hold") == "None."
    assert finding(found, "Who closed first") == ""
    assert "This host closed first" in finding(found, "Does it leave sockets in TIME_WAIT")
    assert any("keep-alive" in one for one in found.remedies)
    assert any("tcp_tw_reuse=1" in one for one in found.remedies)
    assert not any("close-wait" in one for one in found.commands)


def test_sockets_that_come_and_go_are_no_trouble() -> None:
    """No cause, no remedy."""
    found = explanation(process(7, 5, fd_open=9, fd_limit=1_024))
    assert "nothing to explain" in found.verdict
    assert found.remedies == ()


@pytest.mark.parametrize("cause", pb.Cause.values())
@pytest.mark.parametrize("fd_open", [1_024, 1_030])
def test_who_has_no_descriptor_left_is_told_why_accept_fails(cause: pb.Cause.ValueType, fd_open: int) -> None:
    """EMFILE, whatever else there is; also without a forecast, and where more are open than may be."""
    one = with_evidence(cause)
    one.fd_open, one.fd_limit_hard = fd_open, 4_096
    found = explanation(one)
    assert "no file descriptor left" in found.verdict
    assert "1,024" in found.verdict
    assert "accept() and open() fail (EMFILE)" in found.verdict
    assert finding(found, "Are there file descriptors").startswith("None: ")
    assert "1,030 of 1,024" not in str(found)
    assert any(remedy.startswith("prlimit --pid 4711 --nofile=4096: ") for remedy in found.remedies)
    assert not any("may be blocked or have ended" in remedy for remedy in found.remedies)
    one.fd_limit_hard = one.fd_limit
    assert not any("prlimit" in remedy for remedy in explanation(one).remedies)
    assert explanation(with_evidence(cause)).verdict.count("EMFILE") == 0


def test_who_has_no_descriptor_left_is_told_so_without_close_wait_too() -> None:
    """Once."""
    found = explanation(process(7, 0, fd_open=9, fd_limit=9), rank=fleet.ProcessRank(fd_forecast=fleet.FdForecast()))
    assert found.verdict == (
        "It holds no CLOSE_WAIT sockets. It has no file descriptor left: 9 of 9 are open. "
        "So accept() and open() fail (EMFILE)."
    )


@pytest.mark.parametrize("cause", pb.Cause.values())
def test_a_stopped_process_is_said_to_be_stopped(cause: pb.Cause.ValueType) -> None:
    """Whatever the cause; it does nothing until it goes on, and only a leak was one before."""
    one = with_evidence(cause)
    one.evidence.thread_states.update({"T": 3, "S": 1})
    found = explanation(one)
    assert found.verdict.startswith("It is stopped, by a signal: so are 3 of the 4 threads looked at.")
    assert found.remedies[0].startswith("kill -CONT 4711 ")
    assert (len(found.remedies) > 1) is (cause == pb.CAUSE_LEAK)
    assert "does not tell why" not in found.verdict
    one.evidence.thread_states.update({"T": 1, "S": 3})
    found = explanation(one)
    assert "stopped, by" not in found.verdict
    assert not any("CONT" in remedy for remedy in found.remedies)


def test_of_a_stalled_reader_only_what_its_threads_do_is_said() -> None:
    """They need not be asleep, and may not have been looked at."""
    one = with_evidence(pb.CAUSE_STALLED_READER)
    assert explanation(one).verdict == "It does not read: 30 sockets closed by the other side wait for its threads."
    one.evidence.thread_states.update({"R": 1, "S": 3})
    assert explanation(one).verdict.endswith(" wait for its threads (3 asleep; 1 running).")


@pytest.mark.parametrize(
    ("trend", "grows"),
    [
        (fleet.CloseWaitTrend(growth_per_hour=120, growth_fit=0.99, samples=60), True),
        (fleet.CloseWaitTrend(growth_per_hour=120, growth_fit=0.6, samples=60), False),
        (fleet.CloseWaitTrend(growth_per_hour=120, growth_fit=1, samples=3), False),
        (fleet.CloseWaitTrend(growth_per_hour=-120, growth_fit=0.99, samples=60), False),
        (fleet.CloseWaitTrend(growth_per_hour=0, samples=60), False),
        (fleet.CloseWaitTrend(), False),
    ],
)
def test_a_pool_that_grows_steadily_is_a_leak(trend: fleet.CloseWaitTrend, grows: bool) -> None:
    """Connections that are dropped look like idle ones of a pool, but become more and more."""
    found = explanation(with_evidence(pb.CAUSE_IDLE_POOL), rank=fleet.ProcessRank(close_wait=trend))
    assert ("grow steadily, by +120 an hour: connections are dropped and not closed" in found.verdict) is grows
    assert any("made for each request" in remedy for remedy in found.remedies) is grows


def test_no_part_is_larger_than_its_whole() -> None:
    """What was never accepted has no descriptor, and figures are read one after the other."""
    one = with_evidence(pb.CAUSE_NEVER_ACCEPTED, never_accepted=30)
    one.sockets, one.fd_open = 1, 6
    found = explanation(one)
    assert finding(found, "Does it hold") == "40 sockets."
    assert finding(found, "Are there file descriptors").startswith("6 of 1,024 are open. They")
    one.sockets = 41
    found = explanation(one)
    assert finding(found, "Does it hold") == "40 sockets of its 41."
    assert finding(found, "Are there file descriptors").startswith("6 of 1,024 are open. They")


def test_time_wait_that_is_folded_is_not_said_to_have_no_owner() -> None:
    """The row of the rest names nobody, but says how they were found."""
    one = process(7, 0)
    taken = sample(processes=[one])
    for source in pb.OwnerSource.values():
        taken.time_wait.add(count=10).owner.source = source
    said = [line for line in explanation(one, taken).unseen if "TIME_WAIT" in line]
    assert said == ["TIME_WAIT sockets of the host whose owner was not found: 10."]


def test_namespaces_that_were_read_by_procfs_are_named() -> None:
    """It tells less of them."""
    one = process(7, 0)
    found = explanation(one, sample(processes=[one], coverage=pb.Coverage(namespaces_by_procfs=2)))
    assert "Network namespaces of the host that were read from /proc/PID/net/tcp alone: 2." in found.unseen


def test_waiting_for_a_processor_is_shown_of_all_threads() -> None:
    """/proc/PID/schedstat is that of the main thread."""
    assert (
        "cat /proc/4711/task/*/schedstat /proc/pressure/cpu"
        in explanation(with_evidence(pb.CAUSE_CPU_STARVED)).commands
    )


def test_growth_is_not_told_from_samples_that_are_not_there() -> None:
    """Those of the window."""
    grows = finding(explanation(process(7, 5)), "Does their number grow")
    assert grows == "Not to be told: none of its samples is of the window."


def test_sockets_of_an_earlier_process_with_the_same_pid_are_not_its() -> None:
    """The start time tells them apart."""
    taken = full_report().sample
    one = taken.processes[0]
    taken.time_wait[0].owner.start_time.seconds += 100
    assert finding(explanation(one, taken), "Does it leave sockets in TIME_WAIT") == ""


def test_commands_show_the_same_on_the_host() -> None:
    """In the namespace of the process, where there is more than one."""
    taken = full_report().sample
    one = taken.processes[0]
    assert explanation(one, taken).commands == (
        "nsenter -t 100 -n ss -tanpo state close-wait | grep 'pid=100,'",
        "nsenter -t 100 -n ss -Htan state time-wait dst 10.0.0.5:443 | wc -l",
        "nsenter -t 100 -n sysctl net.ipv4.ip_local_port_range net.ipv4.tcp_tw_reuse",
        "ls /proc/100/fd | wc -l; grep 'open files' /proc/100/limits",
    )
    alone = with_evidence(pb.CAUSE_NEVER_ACCEPTED, never_accepted=30)
    commands = explanation(alone).commands
    assert commands[0].startswith("ss -tlnp | grep 'pid=4711,'")
    assert any(one.startswith("ps -L") for one in commands)


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ({"destination": "10.0.0.5:443"}, "dst 10.0.0.5:443"),
        ({"destination": "[2001:db8::7]:443"}, "dst '[2001:db8::7]:443'"),
        ({"destination": "2001:db8::7:443"}, "dst '[2001:db8::7]:443'"),
        ({"listener": "0.0.0.0:8080"}, "sport = :8080"),
        ({"listener": "[::]:8080"}, "sport = :8080"),
        ({"destination": "10.0.0.5:$(reboot)"}, None),
        ({"destination": "$(reboot):443"}, None),
        ({"destination": "[fe80::1%$(reboot)]:443"}, None),
        ({"listener": "::$(reboot)"}, None),
        ({"listener": "x:80;reboot"}, None),
        ({"listener": "x:٣"}, None),
        ({}, None),
    ],
)
def test_only_addresses_and_ports_get_into_a_command(where: dict[str, str], condition: str | None) -> None:
    """People paste commands into the shell of root."""
    one = process(7, 0)
    taken = sample(processes=[one])
    group = taken.time_wait.add(count=5, **where)
    group.owner.pid = 7
    commands = [line for line in explanation(one, taken).commands if "time-wait" in line]
    assert commands == ([] if condition is None else [f"ss -Htan state time-wait {condition} | wc -l"])


def _spoil_peers(one: pb.ProcessSample) -> None:
    one.peers.add(address=HOSTILE, count=1)


def _spoil_threads(one: pb.ProcessSample) -> None:
    one.evidence.thread_states[HOSTILE] = 1
    one.evidence.wait_channels[HOSTILE] = 1


@pytest.mark.parametrize("spoil", [_spoil_peers, _spoil_threads])
def test_what_a_host_wrote_is_made_safe_and_stays_out_of_commands(spoil: Callable[[pb.ProcessSample], None]) -> None:
    """Wherever it comes from."""
    one = with_evidence(pb.CAUSE_LEAK)
    spoil(one)
    found = explanation(one)
    texts = [found.verdict, *found.commands, *found.remedies, *found.unseen, *(step.finding for step in found.steps)]
    assert all(text.isprintable() for text in texts)
    assert not any("reboot" in command for command in found.commands)
    assert all(shlex.split(command, comments=True) for command in found.commands)


def test_absurd_figures_make_no_absurd_text() -> None:
    """The largest that the wire allows."""
    one = with_evidence(pb.CAUSE_LEAK)
    for message in (one, one.evidence, one.close_wait_age):
        for field in message.DESCRIPTOR.fields:
            if field.cpp_type == field.CPPTYPE_DOUBLE:
                setattr(message, field.name, 1e308)
            elif field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) and not field.is_repeated:
                setattr(message, field.name, 2**32 - 1)
    taken = sample(processes=[one])
    taken.time_wait.add(destination="d" * 256, count=2**32 - 1, closes_per_second=1e308).owner.pid = one.pid
    taken.ports.add(used=2**32 - 1, available=1, exhausting_connects_per_second=1e308, pid=one.pid)
    found = explanation(one, taken)
    assert all(len(step.finding) < 600 for step in found.steps)
    assert "over a year" in finding(found, "Do they stay")


def test_a_cause_that_the_agent_left_out_is_unknown() -> None:
    """Over its budget it leaves out why: that is said, and not that there is nothing to explain."""
    one = process(4_711, 40, sockets=50, fd_open=60, fd_limit=1_024)
    taken = sample(processes=[one])
    assert "there is nothing to explain yet" in explanation(one, taken).verdict
    taken.degradation = pb.DEGRADATION_NO_DETAIL
    found = explanation(one, taken)
    assert found.verdict == "Why it holds 40 sockets in CLOSE_WAIT is unknown: the agent leaves that out for now."
    assert found.unseen[0].startswith("What the agent leaves out to keep within its processor budget")
    assert not any("How long" in line or "could not be looked into" in line for line in found.unseen)
