"""Answers ExplainProcess: why a process has the sockets that it has."""

from __future__ import annotations

from loiter.limits import MAX_RANKING_ROWS
from loiter.text import printable
from loiter.v1 import fleet_service_pb2 as pb
from loiter.v1 import sample_pb2
from loiter_aggregator.clock import from_timestamp
from loiter_aggregator.explanation import explain, facts_of
from loiter_aggregator.fleet.errors import NotFound
from loiter_aggregator.fleet.messages import unranked
from loiter_aggregator.fleet.named_host import named_host
from loiter_aggregator.fleet.ranks import process_ranks
from loiter_aggregator.fleet.requests import read_ranking
from loiter_aggregator.host_detail import HostDetail
from loiter_aggregator.ranking.forecast import forecasts_on_host
from loiter_aggregator.ranking.processes import rank_processes
from loiter_aggregator.ranking.query import Ranking
from loiter_aggregator.store.question import Question


def explanation_answer(store: Question, now: int, request: pb.ExplainProcessRequest) -> pb.ExplainProcessResponse:
    """Explains a process that is in the latest sample of its host. Raises InvalidRequest, NotFound, StoreError."""
    ranking = read_ranking(pb.RankingQuery(window=request.window, limit=MAX_RANKING_ROWS), now, "")
    detail = named_host(store, request.name)
    sample = detail.latest if detail.latest is not None else sample_pb2.Sample()
    process = _process(sample, detail.host.hostname, request.pid)
    rank = _rank(store, ranking, detail, process)
    facts = facts_of(sample, process, rank)
    found = explain(facts)
    return pb.ExplainProcessResponse(
        host=detail.host,
        rank=rank,
        latest=process,
        time_wait=facts.time_wait,
        ports=facts.ports,
        steps=[pb.ExplanationStep(question=step.question, finding=step.finding) for step in found.steps],
        commands=found.commands,
        remedies=found.remedies,
        verdict=found.verdict,
        unseen=found.unseen,
    )


def _process(sample: sample_pb2.Sample, hostname: str, pid: int) -> sample_pb2.ProcessSample:
    process = next((one for one in sample.processes if one.pid == pid), None)
    if process is not None:
        return process
    if sample.degradation >= sample_pb2.DEGRADATION_COUNTS_ONLY:
        raise NotFound(
            f"the agent of {printable(hostname)} leaves out processes for now, to keep within its "
            "processor budget; 'loiter host' shows them as they were last"
        )
    raise NotFound(
        f"process {pid} is not in the latest sample of {printable(hostname)}; "
        "agents report the holders of CLOSE_WAIT sockets and the largest others"
    )


def _rank(store: Question, ranking: Ranking, detail: HostDetail, process: sample_pb2.ProcessSample) -> pb.ProcessRank:
    """What it comes to over the window; one without samples in it is as its latest sample has it."""
    series = (detail.host_key, process.pid, from_timestamp(process.start_time))
    rows = [row for row in rank_processes(store, ranking, detail.host_key) if row.series == series]
    if not rows:
        return unranked(detail, process, ranking)
    return process_ranks(store, ranking, rows, forecasts_on_host(store, ranking, detail.host_key))[0]
