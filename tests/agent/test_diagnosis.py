"""Why CLOSE_WAIT sockets stay: each cause by what is observed of it, and no cause where there is none."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loiter_agent.diagnosis import diagnose
from loiter_agent.sample import AcceptQueue, Activity, Ages, Cause, CloseWaitSockets, Evidence

IDLE = Activity(
    threads=2,
    threads_read=2,
    thread_states={"S": 2},
    wait_channels={"ep_poll": 1, "futex_do_wait": 1},
    run_delay_share=0.0,
    throttled_share=None,
    cpu_pressure=0.0,
    io_pressure=0.0,
)
WAITING = replace(IDLE, wait_channels={"do_epoll_wait": 1, "inet_csk_accept": 1})
STARVED = replace(IDLE, run_delay_share=0.95, throttled_share=0.95, cpu_pressure=0.9)
# Beside others that compute, on a host with too few processors: see the table in diagnosis.py.
CROWDED = replace(IDLE, run_delay_share=0.6, cpu_pressure=0.6)
FIRST_LOOK = replace(IDLE, run_delay_share=None)
UNREADABLE = Activity(None, 0, {}, {}, None, None, None, None)


def sockets(
    eof: int = 0,
    fin: int = 0,
    farewell: int = 0,
    data: int = 0,
    unaccepted: int = 0,
    client: int = 0,
    churning: int = 0,
    survived: float | None = 1.0,
    stuck: int = 0,
) -> CloseWaitSockets:
    """Settled sockets by class, of which `client` were opened by this host, and others beside them."""
    settled = eof + fin + farewell + data + unaccepted
    return CloseWaitSockets(
        count=settled + churning,
        settled=settled,
        survived=survived,
        eof_read=eof,
        fin_unread=fin,
        farewell_unread=farewell,
        data_unread=data,
        never_accepted=unaccepted,
        client_side=client,
        stuck=stuck,
        ages=Ages(10, 20, 30),
        peers=(),
        accept_queue=AcceptQueue(unaccepted, 128) if unaccepted else None,
        growth_per_second=None,
    )


@pytest.mark.parametrize(
    ("observed", "activity", "cause"),
    [
        pytest.param(sockets(eof=1), IDLE, "leak", id="one read to the end and kept"),
        pytest.param(sockets(eof=500, client=500), IDLE, "leak", id="a client's that were read to the end"),
        pytest.param(sockets(fin=20, client=20), IDLE, "idle_pool", id="a client's that were not looked at again"),
        pytest.param(sockets(farewell=20, client=20), IDLE, "idle_pool", id="a client's with TLS farewells"),
        pytest.param(sockets(fin=9, farewell=11, client=20), IDLE, "idle_pool", id="both in one pool"),
        pytest.param(sockets(fin=20), IDLE, "stalled_reader", id="accepted ones that nobody reads"),
        pytest.param(sockets(data=20), IDLE, "stalled_reader", id="accepted ones with data unread"),
        pytest.param(sockets(data=20, client=20), IDLE, "stalled_reader", id="a client's with data unread"),
        pytest.param(sockets(fin=10, data=10), IDLE, "stalled_reader", id="accepted ones, some with data"),
        pytest.param(sockets(unaccepted=128), IDLE, "never_accepted", id="a listener that stopped accepting"),
        pytest.param(sockets(unaccepted=50, data=50), IDLE, "never_accepted", id="accepting comes before reading"),
    ],
)
def test_the_receive_queues_tell_the_cause(observed: CloseWaitSockets, activity: Activity, cause: Cause) -> None:
    """Of a process that gets to run. It is the same where nothing is known of its threads."""
    assert diagnose(observed, activity)[0] == cause
    assert diagnose(observed, None)[0] == cause
    assert diagnose(observed, UNREADABLE)[0] == cause


@pytest.mark.parametrize(
    ("observed", "cause"),
    [
        pytest.param(sockets(data=20), "cpu_starved", id="data unread"),
        pytest.param(sockets(fin=20), "cpu_starved", id="the end unread"),
        pytest.param(sockets(unaccepted=20), "cpu_starved", id="not accepted"),
        pytest.param(sockets(data=12, eof=8), "cpu_starved", id="most unread"),
        pytest.param(sockets(data=7, unaccepted=7, fin=6, client=6), "cpu_starved", id="unread in several ways"),
        pytest.param(sockets(eof=20), "leak", id="all read"),
        pytest.param(sockets(eof=12, data=8), "leak", id="most read"),
    ],
)
def test_who_does_not_get_to_run_is_not_to_blame_for_what_is_unread(observed: CloseWaitSockets, cause: Cause) -> None:
    """But for what was read and not closed."""
    assert diagnose(observed, STARVED)[0] == cause


@pytest.mark.parametrize(
    ("activity", "starved"),
    [
        pytest.param(replace(IDLE, run_delay_share=0.96), True, id="wants all of a processor, gets 5 %"),
        pytest.param(replace(IDLE, run_delay_share=0.65, throttled_share=0.65), True, id="wants 25 %, quota of 5 %"),
        pytest.param(CROWDED, False, id="its fair share of a crowded host"),
        pytest.param(replace(IDLE, run_delay_share=0.33, cpu_pressure=0.44), False, id="busy beside others"),
        pytest.param(replace(IDLE, run_delay_share=0.0, throttled_share=0.95), False, id="others used up the quota"),
        pytest.param(replace(IDLE, run_delay_share=0.0, cpu_pressure=0.95), False, id="another one waits"),
        pytest.param(replace(IDLE, run_delay_share=0.3, throttled_share=0.2), False, id="held back now and then"),
        pytest.param(FIRST_LOOK, False, id="first look, no pressure"),
        pytest.param(replace(FIRST_LOOK, cpu_pressure=0.95), True, id="first look, under pressure"),
        pytest.param(replace(FIRST_LOOK, cpu_pressure=0.45), False, id="first look, busy beside others"),
        pytest.param(replace(FIRST_LOOK, throttled_share=0.9), True, id="threads unreadable, held back"),
        pytest.param(UNREADABLE, False, id="nothing known"),
    ],
)
def test_starvation_is_told_from_being_busy(activity: Activity, starved: bool) -> None:
    """By figures that were measured: see the table in diagnosis.py."""
    assert diagnose(sockets(data=20), activity)[0] == ("cpu_starved" if starved else "stalled_reader")


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(sockets(churning=500, survived=0.0), id="all come and go"),
        pytest.param(sockets(churning=500, survived=0.9), id="none is settled yet"),
        pytest.param(sockets(eof=3, churning=40, survived=0.2), id="a few slow ones"),
        pytest.param(sockets(eof=60, churning=940, survived=0.25), id="the tail of slow handling"),
        pytest.param(sockets(data=15, churning=200, survived=0.3), id="the tail of slow handling, unread"),
        pytest.param(sockets(eof=2, churning=100, survived=None), id="first sample, a few slow ones"),
        pytest.param(sockets(churning=10, survived=None), id="first sample, all fresh"),
    ],
)
@pytest.mark.parametrize("activity", [IDLE, STARVED, None])
def test_churn_has_no_cause(observed: CloseWaitSockets, activity: Activity | None) -> None:
    """Connections that are handled, if slowly, are in CLOSE_WAIT for a while: nothing is wrong."""
    assert diagnose(observed, activity)[0] is None


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(sockets(eof=50, churning=950, survived=0.05), id="one in twenty is kept"),
        pytest.param(sockets(eof=100, churning=300, survived=0.3), id="one in four is kept"),
        pytest.param(sockets(eof=40, churning=400, survived=None, stuck=40), id="first sample, old ones among many"),
        pytest.param(sockets(eof=6, churning=5, survived=None), id="first sample, most are old"),
    ],
)
def test_a_leak_among_churn_is_found(observed: CloseWaitSockets) -> None:
    """Those that outlive one interval outlive the next: mere churn thins out."""
    assert diagnose(observed, IDLE)[0] == "leak"


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(sockets(eof=8, data=7, unaccepted=5), id="three ways at once"),
        pytest.param(sockets(eof=8, data=6, fin=7, client=21), id="read, unread, idle"),
        pytest.param(replace(sockets(eof=5), eof_read=0), id="no class could be read"),
    ],
)
def test_contradictions_are_unknown(observed: CloseWaitSockets) -> None:
    """No cause that accounts for half of them: it is said so, not guessed."""
    assert diagnose(observed, IDLE)[0] == "unknown"


def test_the_evidence_is_what_was_observed() -> None:
    """Figure by figure, whatever the verdict."""
    observed = sockets(eof=1, fin=2, farewell=3, data=4, unaccepted=5, client=6, churning=7, survived=0.5)
    _, evidence = diagnose(observed, STARVED)
    for one in fields(Evidence):
        source = observed if hasattr(observed, one.name) else STARVED
        assert getattr(evidence, one.name) == getattr(source, one.name), one.name


def test_the_evidence_of_threads_that_were_not_looked_at_is_unknown() -> None:
    """None, not 0."""
    cause, evidence = diagnose(sockets(churning=5, survived=0.0), None)
    assert cause is None
    assert (evidence.threads, evidence.threads_read, evidence.run_delay_share) == (None, None, None)
    assert (evidence.thread_states, evidence.wait_channels) == ({}, {})


counts = st.integers(0, 50)


@given(
    eof=counts,
    fin=counts,
    farewell=counts,
    data=counts,
    unaccepted=counts,
    client=counts,
    churning=counts,
    survived=st.none() | st.floats(0, 1),
    activity=st.sampled_from([IDLE, STARVED, CROWDED, FIRST_LOOK, UNREADABLE, None]),
)
def test_any_observation_has_a_verdict(
    eof: int,
    fin: int,
    farewell: int,
    data: int,
    unaccepted: int,
    client: int,
    churning: int,
    survived: float | None,
    activity: Activity | None,
) -> None:
    """One that rests on what is there: no class without sockets is named."""
    observed = sockets(eof, fin, farewell, data, unaccepted, client, churning, survived)
    cause, _ = diagnose(observed, activity)
    needed = {
        "leak": eof,
        "idle_pool": fin + farewell,
        "stalled_reader": fin + data,
        "never_accepted": unaccepted,
        "cpu_starved": observed.settled - eof,
        "unknown": observed.settled,
        None: 1,
    }
    assert needed[cause] > 0


@pytest.mark.parametrize(
    ("activity", "observed", "cause"),
    [
        (WAITING, sockets(fin=20), "leak"),
        (replace(WAITING, wait_channels={"inet_csk_accept": 2}), sockets(fin=20), "leak"),
        (IDLE, sockets(fin=20), "stalled_reader"),
        (replace(WAITING, threads=3), sockets(fin=20), "stalled_reader"),
        (
            replace(WAITING, threads=100, threads_read=64, wait_channels={"ep_poll": 64}),
            sockets(fin=20),
            "stalled_reader",
        ),
        (WAITING, sockets(fin=20, client=20), "idle_pool"),
        (WAITING, sockets(fin=20, data=1), "leak"),
        (WAITING, sockets(fin=20, data=5), "stalled_reader"),
        (None, sockets(fin=20), "stalled_reader"),
    ],
)
def test_accepted_connections_that_nobody_watches_are_a_leak(
    activity: Activity | None, observed: CloseWaitSockets, cause: Cause
) -> None:
    """Whoever waits for events would have been told of a FIN; of a lock this is not known."""
    assert diagnose(observed, activity)[0] == cause


def test_a_read_with_a_timeout_is_no_wait_for_events() -> None:
    """Python and others wait with poll for one socket: that thread is a reader, and busy with something else."""
    activity = replace(IDLE, wait_channels={"poll_schedule_timeout.constprop.0": 2})
    assert diagnose(sockets(fin=20), activity)[0] == "stalled_reader"


def test_sockets_that_turn_over_need_no_explanation() -> None:
    """It is slow to close, but it does; unless some are older than a minute, or it is held back."""
    slow = replace(sockets(fin=20), turns_over=True)
    assert diagnose(slow, IDLE)[0] is None
    assert diagnose(replace(slow, stuck=1), IDLE)[0] == "stalled_reader"
    assert diagnose(slow, STARVED)[0] == "cpu_starved"


def test_sockets_of_unknown_age_have_an_unknown_cause() -> None:
    """They may have been there for long: none is known to be settled, and that is not churn."""
    unsure = replace(sockets(churning=5), of_unknown_age=5, ages=None)
    assert diagnose(unsure, IDLE)[0] == "unknown"
    assert diagnose(sockets(churning=5), IDLE)[0] is None
