"""The JSON documents, and what of them the .proto files do not say."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from click.testing import CliRunner

from generator.filled import filled_dataclass, filled_message
from generator.json_keys import Document, Elsewhere
from loiter.v1 import fleet_service_pb2 as pb
from loiter_agent.checks.finding import Finding
from loiter_agent.checks.show import as_json as as_check_json
from loiter_agent.sample import HostIdentity, Sample
from loiter_agent.show import as_json
from loiter_agent.status import Status
from loiter_aggregator.commands import loiter
from loiter_aggregator.commands.alerts import document as alerts_document
from loiter_aggregator.output.explanation import document as explain_document
from loiter_aggregator.output.fleet import document as fleet_document
from loiter_aggregator.output.host import document as host_document
from loiter_aggregator.output.reports import schedules_document
from loiter_aggregator.output.rows import app_row, group_row, host_row, process_row
from loiter_aggregator.output.sockets import document as sockets_document
from loiter_aggregator.reports.rendering.document import document as report_document
from loiter_aggregator.simulation.counts import Boards
from loiter_aggregator.simulation.plan import Plan
from loiter_aggregator.simulation.running import Progress
from loiter_aggregator.simulation.showing import document as simulation_document
from loiter_aggregator.simulation.truth import truth

# Figures that rankings flatten out of the messages within a row.
_FIGURES: Final = {
    "rank": "the place in the ranking, from 1",
    "close_wait": "sockets in CLOSE_WAIT at the latest sample",
    "close_wait_growth_per_hour": "CloseWaitTrend.growth_per_hour",
    "close_wait_growth_fit": "CloseWaitTrend.growth_fit",
    "close_wait_max": "the most CLOSE_WAIT sockets in any sample of the window",
    "close_wait_trend": "the most in each twentieth of the window, oldest first; `null` for one without samples",
    "samples": "CloseWaitTrend.samples",
    "time_wait": "sockets in TIME_WAIT at the latest sample",
    "time_wait_mean": "mean of TIME_WAIT over the samples of the window",
    "time_wait_max": "the most TIME_WAIT sockets in any sample of the window",
    "fd_eta_seconds": "seconds until the file descriptors run out, from the latest sample on",
    "fd_eta_earliest_seconds": "FdForecast.earliest_seconds",
    "fd_eta_latest_seconds": "FdForecast.latest_seconds",
    "fd_growth_per_hour": "FdForecast.growth_per_hour",
    "fd_growth_close_wait_share": "FdForecast.close_wait_share",
    "host": "HostRank.hostname",
    "last_report": "HostRank.last_report_time",
}
_PROCESS_FIGURES: Final = {
    **_FIGURES,
    "last_sample": "ProcessRank.last_sample_time",
    "close_wait_age_seconds.p50": "SocketAges.p50_seconds",
    "close_wait_age_seconds.p99": "SocketAges.p99_seconds",
    "close_wait_age_seconds.max": "SocketAges.max_seconds",
}
_CAUSE: Final = "[why](measures.md#causes) its CLOSE_WAIT sockets stay; `null` where there is nothing to explain"
_HOW: Final = "[how it was found](measures.md#owners-of-time_wait-sockets)"
_GROUPS: Final = "by destination, listener and owner, largest first"
_SAMPLER: Final = "[how the sockets were read](measures.md#samplers); `null` where they were not"


def _of_sample(path: str, meaning: str) -> Elsewhere:
    return Elsewhere(f"{meaning}; keys as of [`{path}`](#loiter-agent-sample) of a sample", "json-sample", path)


def _sample() -> object:
    return json.loads(as_json(filled_dataclass(HostIdentity), filled_dataclass(Sample)))


def _check() -> object:
    return json.loads(as_check_json("the service", [filled_dataclass(Finding)]))


def _simulation() -> object:
    return simulation_document(1, Progress(0.0, 0.0, Boards(1, 1).totals(), None))


def _truth() -> object:
    return truth(Plan(hosts=10, start=0))


def _tokens() -> object:
    with tempfile.TemporaryDirectory() as folder:
        where = ["--tokens", str(Path(folder, "tokens.json")), "--config", "/dev/null"]
        runner = CliRunner()
        runner.invoke(loiter, ["token", "add", "alice", "--right", "read", *where], catch_exceptions=False)
        listed = runner.invoke(loiter, ["token", "list", "-o", "json", *where], catch_exceptions=False)
        return json.loads(listed.stdout)


DOCUMENTS: Final = {
    "json-sample": Document(
        _sample,
        {
            "host": "Host",
            "tcp_states": "TcpStateCounts",
            "host_fds": "HostFileDescriptors",
            "processes[]": "ProcessSample",
            "processes[].evidence": "CloseWaitEvidence",
            "processes[].evidence.accept_queue": "AcceptQueue",
            "processes[].peers[]": "Peer",
            "processes[].container": "Container",
            "other": "OtherProcesses",
            "coverage": "Coverage",
            "cost": "AgentCost",
            "collectors[]": "CollectorStatus",
            "time_wait[]": "TimeWaitGroup",
            "time_wait[].owner": "TimeWaitOwner",
            "time_wait_limits": "TimeWaitLimits",
            "ports[]": "PortBudget",
            "namespaces[]": "NetworkNamespace",
        },
        {
            "time": "Sample.sample_time",
            "host": "this machine",
            "sampler": _SAMPLER,
            "tcp_states": "Sample.tcp_states",
            "host_fds": "Sample.host_fds",
            "processes": "Sample.processes",
            "other": "Sample.other_processes",
            "coverage": "Sample.coverage",
            "cost": "Sample.cost",
            "collectors": "Sample.collectors",
            "time_wait": f"{_GROUPS}; together they are all TIME_WAIT sockets",
            "time_wait_limits": "Sample.time_wait_limits",
            "ports": "Sample.ports",
            "namespaces": "Sample.namespaces",
            "processes[].cause": _CAUSE,
            "processes[].close_wait_age_seconds": "ProcessSample.close_wait_age",
            "processes[].close_wait_age_seconds.p50": "SocketAges.p50_seconds",
            "processes[].close_wait_age_seconds.p99": "SocketAges.p99_seconds",
            "processes[].close_wait_age_seconds.max": "SocketAges.max_seconds",
            "processes[].fd_eta_seconds": "seconds until descriptors run out, at the pace at which its CLOSE_WAIT "
            "sockets came",
            "processes[].fd_socket_share": "of the open descriptors, the share that are TCP sockets",
            "namespaces[].sampler": _SAMPLER,
            "time_wait[].owner.how": _HOW,
        },
    ),
    "json-top-hosts": Document(
        lambda: host_row(1, filled_message(pb.HostRank)), {"": "HostRank"}, {"cause": "HostRank.cause"}, _FIGURES
    ),
    "json-top-processes": Document(
        lambda: process_row(1, filled_message(pb.ProcessRank)),
        {"": "ProcessRank"},
        {"cause": _CAUSE, "close_wait_age_seconds": "ProcessRank.close_wait_age"},
        _PROCESS_FIGURES,
    ),
    "json-top-apps": Document(lambda: app_row(1, filled_message(pb.AppRank)), {"": "AppRank"}, {}, _FIGURES),
    "json-top-groups": Document(
        lambda: group_row(1, filled_message(pb.GroupRank)), {"": "GroupRank"}, {"group": "GroupRank.value"}, _FIGURES
    ),
    "json-host": Document(
        lambda: host_document(filled_message(pb.GetHostResponse)),
        {
            "": "HostRank",
            "cost": "AgentCost",
            "spool": "SpoolStatus",
            "lost_samples[]": "LostSamples",
            "collectors_failed[]": "CollectorStatus",
        },
        {
            "boot_id": "Host.boot_id",
            "labels": "Host.labels",
            "agent_version": "Host.agent_version",
            "kernel_release": "Host.kernel_release",
            "interval_seconds": "GetHostResponse.interval",
            "last_sample": "when its latest sample was taken, its clock set right",
            "latest_agent_time": "GetHostResponse.latest_agent_time",
            "clock_skew_seconds": "GetHostResponse.clock_skew",
            "degradation": "`none`, or [the step](measures.md#steps-of-the-budget) of what the agent leaves out",
            "spool": "Sample.spool",
            "lost_samples": "GetHostResponse.lost_samples",
            "lost_samples[].reason": "[why](measures.md#losses); `missing` where it is not known",
            "sampler": _SAMPLER,
            "cost": "Sample.cost",
            "collectors_failed": "the collectors that failed in the latest tick",
        },
        _FIGURES,
        {
            "tcp_states": _of_sample("tcp_states", "of its latest sample, TCP sockets by state"),
            "other": _of_sample("other", "the sum of the processes that are not reported one by one"),
            "coverage": _of_sample("coverage", "what could be read and what could not"),
            "time_wait_groups": _of_sample("time_wait", f"{_GROUPS}; `null` where they could not be looked at"),
            "time_wait_limits": _of_sample("time_wait_limits", "what the kernel lets TIME_WAIT sockets do"),
            "ports": _of_sample("ports", "budgets of ephemeral ports, fullest first"),
            "namespaces": _of_sample("namespaces", "the network namespaces that were found"),
            "processes": Elsewhere(
                "its processes, worst first: rows as of [`loiter top processes`](#loiter-top-processes)",
                "json-top-processes",
            ),
        },
    ),
    "json-explain": Document(
        lambda: explain_document(filled_message(pb.ExplainProcessResponse)),
        {"": "ProcessRank", "steps[]": "ExplanationStep"},
        {
            "cause": _CAUSE,
            "close_wait_age_seconds": "ProcessRank.close_wait_age",
            "verdict": "ExplainProcessResponse.verdict",
            "steps": "ExplainProcessResponse.steps",
            "commands": "ExplainProcessResponse.commands",
            "remedies": "ExplainProcessResponse.remedies",
            "unseen": "ExplainProcessResponse.unseen",
            "arguments": "ProcessSample.arguments",
        },
        _PROCESS_FIGURES,
        {
            "evidence": _of_sample("processes[].evidence", "what the cause rests on, by its latest sample"),
            "peers": _of_sample("processes[].peers", "who is at the other end of its CLOSE_WAIT sockets"),
            "container": _of_sample("processes[].container", "the container it runs in, if any"),
            "time_wait_groups": _of_sample("time_wait", "TIME_WAIT sockets that were found to be of this process"),
            "ports": _of_sample("ports", "budgets of ephemeral ports of which this process uses the most"),
        },
    ),
    "json-sockets": Document(
        lambda: sockets_document(filled_message(pb.ListSocketsResponse)),
        {"": "SocketAnswer", "sockets[]": "Socket"},
        {
            "host": "Host.hostname",
            "host_id": "Host.host_id",
            "time": "SocketAnswer.sample_time",
            "sockets[].state": "its state, such as `close_wait`: a key of [`tcp_states`](#loiter-agent-sample)",
            "sockets[].age_seconds": "Socket.age",
            "sockets[].idle_seconds": "Socket.idle",
        },
    ),
    "json-fleet": Document(
        lambda: fleet_document(filled_message(pb.GetFleetResponse)),
        {
            "": "GetFleetResponse",
            "coverage": "FleetCoverage",
            "silent_hosts[]": "SilentHost",
            "losing_hosts[]": "HostNotice",
            "skewed_hosts[]": "HostNotice",
            "degraded_hosts[]": "HostNotice",
            "conflicts[]": "HostConflict",
            "aggregator": "AggregatorStatus",
        },
        {
            "close_wait_trend": "CLOSE_WAIT of all hosts in each part of the window, oldest first",
            "time_wait_trend": "TIME_WAIT of all hosts in each part of the window, oldest first",
            "silent_hosts[].host": "SilentHost.hostname",
            "silent_hosts[].last_report": "SilentHost.last_report_time",
            "losing_hosts[].host": "HostNotice.hostname",
            "losing_hosts[].samples": "how many were lost in the window; `null` where that is not known of any",
            "skewed_hosts[].host": "HostNotice.hostname",
            "skewed_hosts[].clock_skew_seconds": "by how much its clock is behind the aggregator's; below 0 where it "
            "is ahead",
            "degraded_hosts[].host": "HostNotice.hostname",
            "degraded_hosts[].degradation": "[the step](measures.md#steps-of-the-budget)",
            "conflicts[].host": "HostConflict.hostname",
            "conflicts[].refused_host": "HostConflict.refused_hostname",
        },
        elsewhere={
            "tcp_states": _of_sample(
                "tcp_states",
                "the latest counts of the reporting hosts, added up; a state that a host could not count is left out "
                "of the sum",
            ),
        },
    ),
    "json-check": Document(
        _check,
        meanings={
            "ok": "whether all that is needed works",
            "rights_of": "whose rights were looked at: those of the service, or of the command itself",
            "checks": "what was looked at, a check each",
            "checks[].check": "what it is of",
            "checks[].state": "`ok`; `limited`, where the agent works and sees or tells less; `missing`, where it is "
            "needed and does not work",
            "checks[].finding": "what was found",
            "checks[].remedy": "what to do; `null` where nothing need or can be done",
        },
    ),
    "json-report": Document(
        lambda: report_document(filled_message(pb.FleetReport)),
        {
            "": "FleetReport",
            "findings[]": "Finding",
            "causes[]": "CauseCount",
            "history": "GetHistoryResponse",
            "history.series[]": "HistorySeries",
            "coverage": "FleetCoverage",
        },
        {
            "findings[].kind": "`close_wait_growth`, `stuck`, `fd_eta`, `ports`, `time_wait_overflow` or `silent`",
            "findings[].change": "`new`, `worse`, `unchanged`, `better` or `resolved`; `not_known` of what was there "
            "before, on hosts that are silent now; `null` where there is nothing to compare with",
            "findings[].hosts": "Finding.hostnames",
            "findings[].host_count": "Finding.hosts",
            "findings[].breach_seconds": "in how many seconds it has run out, where that is before the next report",
            "history.step_seconds": "GetHistoryResponse.step",
            "history.series[].values": "a value for each part; `null` for one that nothing is known of",
            "silent_hosts[].host": "SilentHost.hostname",
            "silent_hosts[].host_id": "SilentHost.host_id",
            "silent_hosts[].last_report": "SilentHost.last_report_time",
        },
        elsewhere={
            "apps": Elsewhere("the worst apps; keys as of [`loiter top apps`](#loiter-top-apps)", "json-top-apps"),
            "processes": Elsewhere(
                "the worst processes; keys as of [`loiter top processes`](#loiter-top-processes)", "json-top-processes"
            ),
            "hosts": Elsewhere("the worst hosts; keys as of [`loiter top hosts`](#loiter-top-hosts)", "json-top-hosts"),
        },
    ),
    "json-alerts": Document(
        lambda: alerts_document(filled_message(pb.ListAlertsResponse)),
        {"": "ListAlertsResponse", "alerts[]": "Alert", "rules[]": "AlertRule", "receivers[]": "AlertReceiver"},
        {"alerts[].state": "`pending`, `firing` or `resolved`", "alerts[].cause": _CAUSE},
    ),
    "json-reports": Document(
        lambda: schedules_document(filled_message(pb.ListReportsResponse)),
        {"schedules[]": "ReportSchedule", "runs[]": "ReportRun", "runs[].deliveries[]": "ReportDelivery"},
        {
            "schedules": "ListReportsResponse.schedules",
            "runs": "ListReportsResponse.runs",
            "runs[].deliveries[].state": "`waiting`, `delivered` or `failed`",
        },
    ),
    "json-status": Document(
        lambda: asdict(filled_dataclass(Status)),
        meanings={
            "version": "the version of the agent",
            "pid": "the process id of the agent",
            "updated_at": "when the file was written",
            "interval_seconds": "the time between two ticks now: longer than the setting where the budget has it so",
            "ticks": "ticks that were completed in this run",
            "last_tick_at": "when the last of them was; `null` before the first",
            "server": "the aggregator that it reports to, or tried last; `null` before the first",
            "connected": "whether the aggregator has acknowledged a report on the stream that is open",
            "error": "why it is not connected, once a try has failed",
            "acknowledged_reports": "reports that were acknowledged in this run",
            "last_acknowledged_at": "when the last of them was; `null` before the first",
            "waiting_reports": "reports in the spool that wait for their acknowledgement",
            "lost_reports": "reports that were given up before they were acknowledged, since the spool was made",
            "left_out": "[the step](measures.md#steps-of-the-budget) of what the agent leaves out; `null` for nothing",
        },
    ),
    "json-simulate": Document(
        _simulation,
        meanings={
            "hosts": "how many hosts there were",
            "seconds": "for how long it ran",
            "sent": "reports that were sent, each counted once",
            "acknowledged": "of these, those that the aggregator has in its store",
            "rejected": "those that it did not take",
            "unacknowledged": "those of which nothing was heard until the end",
            "resent": "how often a report was sent again, since a stream had broken",
            "reconnects": "streams that were opened in place of one that had broken",
            "ack_seconds": "from the tick of a report to its acknowledgement; the past, which comes first, is left out",
            "ack_seconds.p50": "the median, to 4 %",
            "ack_seconds.p99": "the 99th percentile, to 4 %",
            "ack_seconds.max": "the longest",
            "report_bytes": "the size of reports as they are sent, encoded and not compressed",
            "report_bytes.p50": "the median, to 16 bytes",
            "report_bytes.p99": "the 99th percentile, to 16 bytes",
            "cpu_seconds": "CPU time of the workers, from when they begin to connect",
            "cpu_microseconds_per_report": "that, for each time a report was sent",
            "last_trouble": "why a stream broke last, or a report was rejected; `null` where neither was",
        },
    ),
    "json-truth": Document(
        _truth,
        meanings={
            "parameters": "what makes the fleet: with the same, it is the same",
            "parameters.hosts": "how many hosts there are",
            "parameters.seed": "what all is drawn by",
            "parameters.start_time": "when it began to run: what `--start` takes",
            "parameters.interval_seconds": "the time between two reports of a host",
            "parameters.processes": "processes that a host reports one by one",
            "parameters.kinds": "how many hosts there are of each kind",
            "hosts": "every host",
            "hosts[].host": "its name",
            "hosts[].kind": "its [kind](../operate/simulate.md#kinds-of-hosts)",
            "leaking_hosts": "the hosts on which a process forgets to close, fastest first",
            "leaking_hosts[].host": "its name",
            "leaking_hosts[].sockets_per_hour": "how many CLOSE_WAIT sockets are added in an hour, on average",
            "leaking_processes": "the processes that forget to close, fastest first",
            "leaking_processes[].host": "the name of its host",
            "leaking_processes[].pid": "its process id",
            "leaking_processes[].start_time": "when it started",
            "leaking_processes[].name": "its name",
            "leaking_processes[].app": "what it belongs to",
            "leaking_processes[].sockets_per_hour": "how many CLOSE_WAIT sockets it adds in an hour, on average",
            "leaking_apps": "the apps of these processes, fastest first",
            "leaking_apps[].app": "what it is called",
            "leaking_apps[].hosts": "on how many hosts it leaks",
            "leaking_apps[].processes": "how many processes of it leak",
            "leaking_apps[].sockets_per_hour": "the sum over them",
        },
    ),
    "json-tokens": Document(
        _tokens,
        meanings={
            "name": "what it is called",
            "id": "the part of the token that is no secret",
            "right": "`read` or `ingest`",
            "created": "when it was made",
            "expires": "until when it is in force; `null` for ever",
            "revoked": "when it was revoked; `null` where it was not",
            "in_force": "whether it lets somebody in",
        },
    ),
}
