"""The command lines as they are used in pipes, shells and scripts, and the services beside our own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from support.programs import (
    BIN,
    CLEAN_ENVIRONMENT,
    Aggregator,
    agent_command,
    aggregator,
    loiter,
    running,
    wait_until,
)


def _environment(server: Aggregator) -> dict[str, str]:
    return {**CLEAN_ENVIRONMENT, "LOITER_SERVER": server.server}


def test_health_and_reflection_are_served(tmp_path: Path) -> None:
    """So that load balancers and grpcurl work."""
    with aggregator(tmp_path) as server, grpc.insecure_channel(server.server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "loiter.v1.IngestService", "loiter.v1.FleetService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflected = ProtoReflectionDescriptorDatabase(channel)
        assert {"loiter.v1.IngestService", "loiter.v1.FleetService"} <= set(reflected.get_services())
        service = DescriptorPool(reflected).FindServiceByName("loiter.v1.FleetService")
        assert "RankHosts" in service.methods_by_name


def test_watch_in_a_pipe_survives_a_lost_aggregator(tmp_path: Path) -> None:
    """It says what is wrong, asks again, and shows the ranking when the aggregator is back."""
    server = Aggregator(tmp_path)
    server.start()
    output = tmp_path / "watch"
    with output.open("wb") as out:
        watch = subprocess.Popen(
            [BIN / "loiter", "top", "hosts", "--watch"], stdout=out, stderr=out, env=_environment(server)
        )
    try:
        with running(agent_command(server.server, tmp_path, interval="500ms"), tmp_path / "agent.log"):
            wait_until(lambda: "GROWTH/h" in output.read_text(), 20, "the ranking is shown")
            server.stop()
            wait_until(lambda: "no aggregator answers" in output.read_text(), 20, "the trouble is shown")
            shown = output.read_text().count("GROWTH/h")
            server.start()
            wait_until(lambda: output.read_text().count("GROWTH/h") > shown, 20, "the ranking is shown again")
    finally:
        watch.terminate()
        assert watch.wait(10) == 0
        server.stop()
    text = output.read_text()
    assert "Traceback" not in text
    assert "\x1b" not in text, "colour and cursor movements are for terminals"


def test_a_reader_that_goes_away_ends_it_in_silence() -> None:
    """As in `loiter-agent sample | head -1`."""
    for command in ("sample", "sample -o json"):
        done = subprocess.run(
            ["sh", "-c", f"{BIN}/loiter-agent {command} | true"], capture_output=True, text=True, check=True
        )
        # What could not be seen is said all the same, in a line of the log.
        assert [line for line in done.stderr.splitlines() if " WARNING " not in line] == []


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [("loiter ", 1, "fleet"), ("loiter top ", 2, "processes"), ("loiter top hosts --b", 3, "--by")],
)
def test_the_shell_completes(words: str, position: int, expected: str) -> None:
    """Verbs, arguments and flags, by the script that `loiter completion` prints."""
    script = loiter("completion", "bash").stdout
    assert "_loiter_completion" in script
    done = subprocess.run(
        [BIN / "loiter"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "_LOITER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)},
    )
    assert f"plain,{expected}" in done.stdout.splitlines()
