"""Says why a process has CLOSE_WAIT sockets that stay. Pure: observations go in, a cause and its evidence come out.

What a CLOSE_WAIT socket has in its receive queue tells what the program did not do. Nothing: it read the end of the
stream and did not close, which is a leak. The FIN alone, or a farewell such as a TLS close_notify: nobody looked at the
connection since the peer hung up, as with the idle connections of a client's pool; on an accepted connection it is a
reader that does not read, unless all threads wait for events: epoll would have told them of the FIN, so the connection
is one that nobody watches any more, a leak. Data: a reader that does
not read, either. A socket without inode waits for accept(2).

Whether the program can not read or does not is told by its threads. Measured on two processors with Linux 6.18, as the
share of time that a thread waited for a processor (its cgroup was held back by its quota):

| program | waited | held back |
|---|---|---|
| wants a whole processor, or serves connections, has a quota of 5 % | 0.72 to 0.96 | 0.95 to 1 |
| wants 25 % of a processor, has a quota of 5 % | 0.65 | 0.65 |
| 16 threads that share an interpreter lock, quota of 5 % | 0.94 | 1 |
| the same without quota: alone; beside 4 others that spin | 0.05; 0.13 | no quota |
| serves connections in a cgroup of its own, beside 2 or 6 that spin | 0.33 | no quota |
| spins beside 4 others that spin: its fair share is 0.4 | 0.60 | no quota |
| blocked on a lock, or on a FIFO | 0 | no quota |
"""

from __future__ import annotations

from typing import Final

from loiter_agent.sample import Activity, Cause, CloseWaitSockets, Evidence

# Less than this of the CLOSE_WAIT sockets is left an interval later: they come and go.
_CHURN_BELOW: Final = 0.5
# But so many that stay are worth a word, whatever comes and goes beside them, ...
_NOTABLE_MINORITY: Final = 10
# ... where those that outlive one interval outlive the next, too. Of mere churn as few do that as outlived the first.
_STAYING_OF_SURVIVORS: Final = 2 / 3

# Of the settled sockets, a cause has to explain this share.
_MAJORITY: Final = 0.5

# Where threads sleep that wait for events, on kernels from 4.19 to 6.18. Not poll and select: a timeout of a blocking
# read is made of them, too.
_EVENT_CHANNELS: Final = ("ep_poll", "do_epoll_wait", "inet_csk_accept")
# A share of the settled sockets that does not change the picture.
_FEW: Final = 0.1

# A thread that waits so much gets a fifth of what it asks for at most. Fair shares of a crowded host are above that.
_STARVED_RUN_DELAY: Final = 0.8
# A quota that holds a cgroup back so much lets it fall behind, ...
_STARVED_THROTTLED: Final = 0.5
# ... if it is this process that has something to do, and not just another one of its cgroup.
_WANTS_TO_RUN: Final = 0.05
# Only where nothing better is known, in the first sample: this is of any process of the cgroup.
_STARVED_PRESSURE: Final = 0.8


def diagnose(sockets: CloseWaitSockets, activity: Activity | None) -> tuple[Cause | None, Evidence]:
    """Names the cause of CLOSE_WAIT sockets that stay, and what it rests on.

    Args:
        sockets: Those of one process, never accepted ones included.
        activity: What its threads do; None where that was not looked at.

    Returns:
        The cause; None where none of the sockets stays for longer than it takes to handle them, and "unknown" where
        they do, but no single cause accounts for half of them.
    """
    return _cause(sockets, activity), _evidence(sockets, activity)


def _cause(sockets: CloseWaitSockets, activity: Activity | None) -> Cause | None:
    if sockets.settled == 0:
        return "unknown" if sockets.of_unknown_age else None
    if _is_churn(sockets):
        return None
    classes = _classes(sockets)
    if sockets.data_unread <= _FEW * sockets.settled and activity is not None:
        # Of those with nothing but the FIN unread it depends on the threads.
        waiting = _waiting_for_events(activity)
        if waiting and waiting == activity.threads == activity.threads_read:
            classes["leak"] += classes.pop("stalled_reader")
    cause = max(classes, key=lambda cause: classes[cause])
    if classes[cause] < _MAJORITY * sockets.settled:
        cause = "unknown"
    unread = sockets.settled - sockets.eof_read
    # Who has read the end of the stream had the time to close.
    if cause != "leak" and unread > 0 and activity is not None and _is_starved(activity):
        return "cpu_starved"
    # It is slow to close, but it does, and nothing gets old.
    return None if sockets.turns_over and not sockets.stuck else cause


def _is_churn(sockets: CloseWaitSockets) -> bool:
    """Tells whether the sockets come and go, the settled ones being no more than the slowest of them."""
    if sockets.survived is None:  # the first sample has ages alone to go by
        return sockets.settled < sockets.count / 2 and (sockets.stuck or 0) < _NOTABLE_MINORITY
    if sockets.survived >= _CHURN_BELOW:
        return False
    staying = sockets.settled >= _STAYING_OF_SURVIVORS * sockets.survived * sockets.count
    return sockets.settled < _NOTABLE_MINORITY or not staying


def _classes(sockets: CloseWaitSockets) -> dict[Cause, float]:
    """Distributes the settled sockets to causes. The first of equals wins: accepting comes before reading and closing.

    Of the sockets with nothing but the FIN unread it is not known how many are of which side: that is taken to be as
    with the others. Those with a farewell unread are of the client side.
    """
    known_side = sockets.settled - sockets.never_accepted - sockets.farewell_unread
    client_side = max(0, sockets.client_side - sockets.farewell_unread)
    fin_of_clients = sockets.fin_unread * min(1.0, client_side / known_side) if known_side > 0 else 0.0
    return {
        "never_accepted": sockets.never_accepted,
        "stalled_reader": sockets.data_unread + sockets.fin_unread - fin_of_clients,
        "idle_pool": sockets.farewell_unread + fin_of_clients,
        "leak": sockets.eof_read,
    }


def _waiting_for_events(activity: Activity) -> int:
    """Counts the threads that wait for whatever comes: in epoll_wait(2) or accept(2)."""
    return sum(count for channel, count in activity.wait_channels.items() if channel.startswith(_EVENT_CHANNELS))


def _is_starved(activity: Activity) -> bool:
    """Tells whether the process has something to do and does not get to run: see the table of the module."""
    waits, throttled = activity.run_delay_share, activity.throttled_share
    if waits is None:
        return (throttled or 0) >= _STARVED_THROTTLED or (activity.cpu_pressure or 0) >= _STARVED_PRESSURE
    return waits >= _STARVED_RUN_DELAY or (waits >= _WANTS_TO_RUN and (throttled or 0) >= _STARVED_THROTTLED)


def _evidence(sockets: CloseWaitSockets, activity: Activity | None) -> Evidence:
    return Evidence(
        settled=sockets.settled,
        survived=sockets.survived,
        eof_read=sockets.eof_read,
        fin_unread=sockets.fin_unread,
        farewell_unread=sockets.farewell_unread,
        data_unread=sockets.data_unread,
        never_accepted=sockets.never_accepted,
        client_side=sockets.client_side,
        accept_queue=sockets.accept_queue,
        threads=activity.threads if activity else None,
        threads_read=activity.threads_read if activity else None,
        thread_states=activity.thread_states if activity else {},
        wait_channels=activity.wait_channels if activity else {},
        run_delay_share=activity.run_delay_share if activity else None,
        throttled_share=activity.throttled_share if activity else None,
        cpu_pressure=activity.cpu_pressure if activity else None,
        io_pressure=activity.io_pressure if activity else None,
    )
