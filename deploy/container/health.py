#!/usr/local/bin/python3 -I
"""Asks an aggregator whether it serves: a probe for Kubernetes, whose own gRPC probe speaks no TLS.

    loiter-health HOST:PORT

TLS is by the authority in $CREDENTIALS_DIRECTORY/ca.pem, plaintext where there is none. Exit status: 0 it serves, 1 it
does not or can not be reached, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loiter.transport import Security, SecurityFileError, channel_credentials

_TIMEOUT_SECONDS: Final = 5


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Asks, says what is wrong to standard error, and returns the exit status."""
    if len(arguments) != 1:
        print("usage: loiter-health HOST:PORT", file=sys.stderr)
        return 2
    try:
        serving = serves(arguments[0], _authority(environment))
    except SecurityFileError as error:
        print(error, file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"{arguments[0]}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if not serving:
        print(f"{arguments[0]}: not serving", file=sys.stderr)
    return 0 if serving else 1


def serves(server: str, ca: Path | None) -> bool:
    """Whether the aggregator at HOST:PORT takes reports and questions.

    Raises:
        SecurityFileError: The authority can not be read.
        grpc.RpcError: It can not be reached, or does not answer in time.
    """
    if ca is None:
        channel = grpc.insecure_channel(server)
    else:
        channel = grpc.secure_channel(server, channel_credentials(Security(ca=ca)))
    with channel:
        # The empty name stands for the server as a whole.
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=""), timeout=_TIMEOUT_SECONDS
        )
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _authority(environment: Mapping[str, str]) -> Path | None:
    folder = environment.get("CREDENTIALS_DIRECTORY")
    file = Path(folder, "ca.pem") if folder else None
    return file if file is not None and file.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
