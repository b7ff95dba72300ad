"""Two machines with one host id are told apart, and neither is merged into the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from loiter_aggregator.ingest.registry import Machine, Registry, Session
from support.aggregators import FakeClock
from support.reports import HOUR, NOW, SECOND, boot_id, host_id

ID = host_id("web-1")


@dataclass
class World:
    """A registry with clocks that are moved by hand, and who was ended."""

    runner: asyncio.Runner
    clock: FakeClock = field(default_factory=FakeClock)
    seconds: float = 100.0
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = Registry(self.clock, lambda: self.seconds, vacated_within=0.001)

    def pass_time(self, seconds: float) -> None:
        """Moves both clocks."""
        self.seconds += seconds
        self.clock.now += round(seconds * SECOND)

    def session(
        self, hostname: str = "web-1", instance: int = 1, peer: str = "10.0.0.1", interval: float = 10.0, boot: str = ""
    ) -> Session:
        """A stream that is to be opened."""
        name = f"{hostname}/{instance}"
        return Session(
            host_id=ID,
            hostname=hostname,
            boot_id=boot or boot_id(hostname),
            instance=instance,
            peer=peer,
            interval_seconds=interval,
            end=lambda: self.ended.append(name),
        )

    def enter(self, session: Session, heard: Machine | None = None) -> Machine | None:
        """Has it open."""
        return self.runner.run(self.registry.enter(session, heard))

    def deliver(self, session: Session) -> list[tuple[str, str]]:
        """Has a report come by it, and returns the conflicts that are new: whose is stored, and who is refused."""
        with self.registry.at_work(session):
            found = self.registry.deliver(session, self.clock.now)
        return [(conflict.hostname, conflict.refused_hostname) for conflict in found]


@pytest.fixture
def world() -> Iterator[World]:
    """Where nobody has connected yet."""
    with asyncio.Runner() as runner:
        yield World(runner)


def test_an_agent_that_connects_again_takes_the_place_of_its_former_stream(world: World) -> None:
    """Be it alive. The former one is ended, and its end takes nothing from the new one."""
    old, new = world.session(), world.session()
    assert world.enter(old) is None
    assert world.enter(new) is None
    assert world.ended == ["web-1/1"]
    world.registry.leave(old)
    assert len(world.registry) == 1
    world.registry.leave(new)
    assert len(world.registry) == 0


def test_another_machine_is_refused_while_the_first_is_alive_and_named_once_it_delivers(world: World) -> None:
    """Once a pair, however often it comes."""
    first = world.session()
    world.enter(first)
    world.pass_time(9)
    assert world.enter(world.session("clone", 2, "10.0.0.2")) == first.machine
    assert world.registry.conflicts() == []
    world.pass_time(1)
    assert world.deliver(first) == [("web-1", "clone")]
    (conflict,) = world.registry.conflicts()
    assert (conflict.host_id, conflict.peer, conflict.refused_peer) == (ID, "10.0.0.1", "10.0.0.2")
    assert conflict.last_time == NOW + 9 * SECOND
    world.enter(world.session("clone", 3, "10.0.0.2"))
    world.pass_time(1)
    assert world.deliver(first) == [], "said before"
    (conflict,) = world.registry.conflicts()
    assert conflict.last_time == NOW + 10 * SECOND
    assert world.ended == []


def test_a_host_that_was_started_anew_is_no_conflict(world: World) -> None:
    """Its former connection hangs, and nothing comes by it. After three intervals it is taken for dead."""
    world.enter(world.session(instance=1, interval=10))
    world.pass_time(30)
    assert world.enter(world.session(instance=2, boot=boot_id("another boot"))) is not None
    world.pass_time(1)
    again = world.session(instance=2, boot=boot_id("another boot"))
    assert world.enter(again) is None
    assert world.ended == ["web-1/1"]
    world.deliver(again)
    assert world.registry.conflicts() == []


def test_the_last_reports_of_a_machine_that_was_started_anew_are_no_sign_of_life(world: World) -> None:
    """They were sent before the new one came, and read after it."""
    old = world.session()
    world.enter(old)
    sent = world.clock.now
    world.pass_time(2)
    world.enter(world.session(instance=2))
    assert world.registry.deliver(old, sent) == []
    assert world.registry.conflicts() == []
    world.pass_time(1)
    assert len(world.registry.deliver(old, None)) == 1, "with an agent that does not say when it sends"


def test_a_stream_that_we_do_not_read_is_not_silent(world: World) -> None:
    """It waits for room, or for its rate."""
    first = world.session(interval=1)
    world.enter(first)
    with world.registry.at_work(first):
        world.pass_time(600)
        assert world.enter(world.session(instance=2)) == first.machine
    world.pass_time(4)
    assert world.enter(world.session(instance=2)) == first.machine
    world.pass_time(2)
    assert world.enter(world.session(instance=2)) is None


def test_an_agent_that_ticks_less_often_is_given_more_time(world: World) -> None:
    """Over its budget it says that its interval is longer."""
    first = world.session(interval=10)
    world.enter(first)
    first.interval_seconds = 40
    world.pass_time(100)
    assert world.enter(world.session(instance=2)) == first.machine


def test_an_agent_that_was_killed_and_started_may_be_faster_than_the_news_of_its_end(world: World) -> None:
    """It waits a little for the former stream to end."""

    async def scenario() -> None:
        old, new = world.session(), world.session(instance=2)
        registry = Registry(world.clock)
        await registry.enter(old)
        entering = asyncio.create_task(registry.enter(new))
        await asyncio.sleep(0)
        registry.leave(old)
        assert await entering is None

    world.runner.run(scenario())


def _conflict(world: World) -> Session:
    """Has the clone refused while the first is alive, and the first go on; returns the stream of the first."""
    first = world.session()
    world.enter(first)
    world.enter(world.session("clone", 2, "10.0.0.2"))
    world.pass_time(1)
    assert world.deliver(first) == [("web-1", "clone")]
    return first


@pytest.mark.parametrize(("boot", "peer"), [("", "10.0.0.1"), ("another", "10.0.0.1"), ("", "10.0.0.9")])
def test_a_known_twin_does_not_enter_while_the_first_is_started_anew(world: World, boot: str, peer: str) -> None:
    """The agent, the machine, or with another address. The first gets in again."""
    first = _conflict(world)
    world.registry.leave(first)
    assert world.enter(world.session("clone", 3, "10.0.0.2")) == first.machine
    assert world.enter(world.session(instance=4, peer=peer, boot=boot and boot_id(boot))) is None


def test_a_known_twin_does_not_enter_while_the_first_is_silent(world: World) -> None:
    """Its network may be cut."""
    first = _conflict(world)
    world.pass_time(60)
    assert world.enter(world.session("clone", 3, "10.0.0.2")) == first.machine
    assert world.ended == []


def test_the_first_gets_in_again_beside_a_twin_that_came_under_another_name(world: World) -> None:
    """Which is ended: whose the host id is was known before."""
    first = _conflict(world)
    world.registry.leave(first)
    assert world.enter(world.session("renamed", 3, "10.0.0.2")) is None
    assert world.enter(world.session(instance=4)) is None
    assert world.ended == ["renamed/3"]


def test_a_host_id_whose_machine_is_gone_for_an_hour_is_free(world: World) -> None:
    """The twin may be what replaces it."""
    first = _conflict(world)
    world.registry.leave(first)
    world.pass_time(3_590)
    assert world.enter(world.session("clone", 3, "10.0.0.2")) == first.machine
    world.pass_time(20)
    assert world.enter(world.session("clone", 3, "10.0.0.2")) is None


def test_an_agent_whose_late_reports_made_a_conflict_with_itself_is_let_in(world: World) -> None:
    """Older agents do not say when they sent a report."""
    old = world.session()
    world.enter(old)
    world.enter(world.session(instance=2))
    assert len(world.registry.deliver(old, None)) == 1
    world.registry.leave(old)
    assert world.enter(world.session(instance=2)) is None


@pytest.mark.parametrize(
    ("hostname", "boot", "refused"),
    [("clone", "", True), ("web-1", "another", False), ("renamed", "web-1", False), ("web-1", "", False)],
)
def test_a_machine_that_has_neither_name_nor_boot_of_the_one_that_was_heard_last_is_refused(
    world: World, hostname: str, boot: str, refused: bool
) -> None:
    """As far as the store tells after the aggregator was started anew."""
    heard = Machine("web-1", boot_id("web-1"))
    entering = world.session(hostname, 2, boot=boot and boot_id(boot))
    assert world.enter(entering, heard) == (heard if refused else None)


@pytest.mark.parametrize(("hostname", "boot", "refused"), [("web-1", "", False), ("clone", "", True)])
def test_older_agents_are_told_apart_by_their_boot_and_name(
    world: World, hostname: str, boot: str, refused: bool
) -> None:
    """They draw no number."""
    world.enter(world.session(instance=0))
    assert (world.enter(world.session(hostname, instance=0, boot=boot)) is not None) == refused


def test_conflicts_are_forgotten_after_an_hour_without_repeat(world: World) -> None:
    """And there are never more than a thousand."""
    first = world.session(interval=3_600)
    world.enter(first)
    for number in range(1_040):
        world.enter(world.session(f"clone-{number}", 2 + number))
        world.pass_time(0.001)
        world.deliver(first)
    found = world.registry.conflicts()
    assert [found[0].refused_hostname, found[-1].refused_hostname] == ["clone-40", "clone-1039"]
    world.clock.now += HOUR - SECOND
    assert world.registry.conflicts()
    world.clock.now += 2 * SECOND
    assert world.registry.conflicts() == []
