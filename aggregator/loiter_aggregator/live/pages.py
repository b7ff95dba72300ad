"""What the live view can show: rankings, a host, a process, an application.

A page is what is asked; its content is what an aggregator answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.console import RenderableType
from rich.text import Text

from loiter.durations import format_duration
from loiter.v1 import fleet_service_pb2 as pb
from loiter_aggregator.client import FleetClient
from loiter_aggregator.output import cells
from loiter_aggregator.output.explanation import page as explanation
from loiter_aggregator.output.host import above_processes, below_processes, processes
from loiter_aggregator.output.rows import Row, cause_name, time
from loiter_aggregator.output.tables import HOST_PROCESSES, PROCESSES, Column, by_measure
from loiter_aggregator.queries import MEASURES, query_duration
from loiter_aggregator.rankings import GROUPED, KINDS, groups_by, notes

_IDENTITY: Final = {
    "hosts": ("host_id",),
    "processes": ("host_id", "pid", "start_time"),
    "apps": ("app",),
    GROUPED: ("group",),
}


@dataclass(frozen=True, slots=True)
class Content:
    """An answer: what stands above a table, the table with who each row is and what it opens, and what stands below.

    `notes` say what it rests on. Where the table is `pinned`, its titles stay in sight.
    """

    above: Sequence[RenderableType] = ()
    columns: Sequence[Column] = ()
    rows: Sequence[Row] = ()
    keys: Sequence[Hashable] = ()
    opens: Sequence[Page | None] = ()
    below: Sequence[RenderableType] = ()
    notes: Sequence[str] = ()
    pinned: bool = False


@dataclass(frozen=True)
class Page(ABC):
    """A question that is asked again and again. `query` holds what stays: labels, limit, and so on.

    `ranked` says whether it has rows that can be sorted by a measure, and `filtered` whether by a text.
    """

    query: pb.RankingQuery
    by: str
    window: float
    contains: str = ""

    ranked: ClassVar[bool] = True
    filtered: ClassVar[bool] = True

    @abstractmethod
    def heading(self) -> str:
        """Says what is shown."""

    @abstractmethod
    def ask(self, client: FleetClient) -> Content:
        """Asks, and waits for the answer. Raises ClickException where there is none."""

    def _asked(self) -> pb.RankingQuery:
        asked = pb.RankingQuery()
        asked.CopyFrom(self.query)
        asked.by = MEASURES[self.by]
        asked.window.CopyFrom(query_duration(self.window))
        asked.contains = self.contains
        return asked

    def _narrowed(self) -> str:
        """What the rows are limited to, for a heading."""
        query = self.query
        limits = [f"last {format_duration(self.window)}"]
        if query.HasField("end_time"):
            limits.append(f"until {time(query.end_time)}")
        if query.labels:
            limits.append(cells.labels(query.labels))
        if query.app:
            limits.append(f"app {cells.text(query.app)}")
        if query.cause:
            limits.append(f"cause {cause_name(query.cause)}")
        if self.contains:
            limits.append(f'"{cells.text(self.contains)}"')
        return ", ".join(limits)


@dataclass(frozen=True)
class Ranking(Page):
    """The worst hosts, processes, apps, or groups of hosts by a label."""

    what: str = "hosts"
    label: str = ""

    def heading(self) -> str:
        """As that of `loiter top`."""
        of = f" of {cells.text(self.label)}" if self.what == GROUPED else ""
        return f"{self.what}{of} by {self.by}, {self._narrowed()}"

    def ask(self, client: FleetClient) -> Content:
        """Ranks."""
        kind = groups_by(self.label) if self.what == GROUPED else KINDS[self.what]
        rows, coverage = kind.ask(client, self._asked())
        columns = by_measure(kind.columns, self.by)
        said = notes(rows, coverage, self.by)
        if not rows:
            nothing = f'nothing has "{self.contains}" in its name' if self.contains else "no samples in the window"
            return Content(above=(Text(cells.text(nothing)),), notes=said)
        opens = [self._opens(row) for row in rows]
        return Content((), columns, rows, [_key(self.what, row) for row in rows], opens, notes=said, pinned=True)

    def _opens(self, row: Row) -> Page | None:
        if self.what == "hosts":
            return HostPage(self.query, self.by, self.window, name=row["host_id"], shown=row["host"])
        if self.what == "processes":
            return _process(row, self)
        if self.what == "apps":
            return AppPage(self.query, self.by, self.window, app=row["app"])
        if row["group"] is None:  # no label, no way to ask for it
            return None
        query = pb.RankingQuery()
        query.CopyFrom(self.query)
        query.labels[self.label] = row["group"]
        return Ranking(query, self.by, self.window, what="hosts")


@dataclass(frozen=True)
class HostPage(Page):
    """One host: its states, its worst processes, destinations and ports."""

    name: str = ""
    shown: str = ""

    filtered: ClassVar[bool] = False

    def heading(self) -> str:
        """Its name."""
        return f"host {cells.text(self.shown)}, processes by {self.by}, last {format_duration(self.window)}"

    def ask(self, client: FleetClient) -> Content:
        """Shows it."""
        query = self._asked()
        request = pb.GetHostRequest(name=self.name, window=query.window, limit=query.limit, by=query.by)
        if query.HasField("end_time"):
            request.end_time.CopyFrom(query.end_time)
        answer = client.ask(client.stub.GetHost, request)
        rows = processes(answer)
        return Content(
            above_processes(answer, self.window),
            by_measure(HOST_PROCESSES, self.by),
            rows,
            [_key("processes", row) for row in rows],
            [_process(row, self) for row in rows],
            below_processes(answer, wide=False),
        )


@dataclass(frozen=True)
class ProcessPage(Page):
    """Why a process has the sockets that it has."""

    name: str = ""
    shown: str = ""
    pid: int = 0

    ranked: ClassVar[bool] = False
    filtered: ClassVar[bool] = False

    def heading(self) -> str:
        """Which process of which host."""
        return f"process {self.pid} on {cells.text(self.shown)}, last {format_duration(self.window)}"

    def ask(self, client: FleetClient) -> Content:
        """Explains it."""
        request = pb.ExplainProcessRequest(name=self.name, pid=self.pid, window=query_duration(self.window))
        return Content((explanation(client.ask(client.stub.ExplainProcess, request), self.window),))


@dataclass(frozen=True)
class AppPage(Page):
    """The processes of an application, over all hosts."""

    app: str = ""

    def heading(self) -> str:
        """Its name."""
        return f"{cells.text(self.app)}: processes by {self.by}, {self._narrowed()}"

    def ask(self, client: FleetClient) -> Content:
        """Ranks its processes."""
        query = self._asked()
        query.app = self.app
        rows, coverage = KINDS["processes"].ask(client, query)
        # An aggregator of the release before ranks the processes of all.
        rows = [row for row in rows if row["app"] == self.app]
        return Content(
            () if rows else (Text("none of its processes has samples in the window"),),
            by_measure(PROCESSES, self.by) if rows else (),
            rows,
            [_key("processes", row) for row in rows],
            [_process(row, self) for row in rows],
            notes=notes(rows, coverage, self.by),
            pinned=bool(rows),
        )


def _process(row: Row, page: Page) -> Page:
    return ProcessPage(page.query, page.by, page.window, name=row["host_id"], shown=row["host"], pid=row["pid"])


def _key(what: str, row: Row) -> Hashable:
    """Who a row is: its place may change, and so may its figures."""
    return tuple(row[name] for name in _IDENTITY[what])
