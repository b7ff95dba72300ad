"""What gRPC's C core says of handshakes, made into words."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from loiter_aggregator.access.core_log import CoreLog, enable

# As gRPC 1.85.1 writes it, with the middle of the long line left out.
RECORD = """\
I1122 22:40:07.479231   18434 handshaker.cc:155] CallNextHandshakerLocked: error=OK shutdown=false index=0, args={{\
endpoint=0x7f, args={{grpc.internal.endpoint_peer_address={peer}, grpc.internal.security_connector=0x56}}
I1122 22:40:07.480376   18436 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: {reason}
I1122 22:40:07.480423   18436 handshaker.cc:155] CallNextHandshakerLocked: error=UNKNOWN: Ssl handshake failed \
(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: {reason}: OK
=== Source Location Trace: ===\x20
src/core/util/status_helper.cc:68
 shutdown={shutdown} index=2, args={{endpoint=0x7f, args={{grpc.internal.endpoint_local_address=ipv6:%5B::1%5D:38287, \
grpc.internal.endpoint_peer_address={peer}, grpc.internal.security_connector=0x56}}
I1122 22:40:07.480438   18436 channel_trace.h:396] handshake manager 0x7f: Failed with error: UNKNOWN: Ssl handshake \
failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: {reason}: OK
=== Source Location Trace: ===\x20
src/core/util/status_helper.cc:68

"""
VERIFY = "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "


def record(reason: str, peer: str = "ipv4:10.0.0.7:42340", shutdown: str = "false") -> str:
    return RECORD.format(reason=reason, peer=peer, shutdown=shutdown)


def logged(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    reader = CoreLog()
    for line in text.encode().split(b"\n"):
        reader.line(line)
    return caplog.messages


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate verification context", "it shows no certificate"),
        (VERIFY + "certificate has expired", "its certificate has expired"),
        (VERIFY + "self signed certificate", "its certificate is self-signed"),
        (VERIFY + "unable to get local issuer certificate", "an authority that tls.client_ca does not hold"),
        (VERIFY + "unsupported certificate purpose", "not made for clients"),
        ("WRONG_VERSION_NUMBER: Invalid certificate verification context", "it speaks no TLS"),
        ("SOMETHING_NEW", "SOMETHING_NEW"),
    ],
)
def test_a_refused_handshake_is_said_once_with_peer_and_reason(
    caplog: pytest.LogCaptureFixture, reason: str, words: str
) -> None:
    """And nothing else of the record."""
    (message,) = logged(caplog, record(reason))
    assert message.startswith("TLS handshake with 10.0.0.7 failed: ")
    assert words in message


def test_peers_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """IPv6 ones come percent-encoded."""
    text = record("SOMETHING") + record("SOMETHING", "ipv6:%5B2001:db8::7%5D:42") + record("SOMETHING")
    assert [message.split()[3] for message in logged(caplog, text)] == ["10.0.0.7", "2001:db8::7"]


def test_connections_that_we_end_are_no_refusals(caplog: pytest.LogCaptureFixture) -> None:
    """As when the aggregator stops."""
    assert logged(caplog, record("SOMETHING", shutdown="true")) == []


def test_what_others_say_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings and errors of the core, and what anybody else writes there, with no control characters."""
    text = (
        "W1122 22:40:05.07   1 log.cc:102] Log level INFO is not suitable for production. Prefer WARNING\n"
        "I1122 22:40:05.07   1 trace.cc:91] gRPC Tracers: handshaker\n"
        "E1122 22:40:05.07   1 tcp.cc:1] too many\x1b[31m files\n"
        "malloc(): corrupted\n"
        "\n"
    )
    assert logged(caplog, text) == ["gRPC: too many\\x1b[31m files", "malloc(): corrupted"]


def test_no_bytes_do_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that are cut short or mixed."""
    caplog.set_level(logging.CRITICAL)
    text = record("SOMETHING").encode()
    for cut in range(0, len(text), 7):
        reader = CoreLog()
        for line in (text[cut:] + b"\xff\xfe" + text[:cut]).split(b"\n"):
            reader.line(line)


def test_the_log_of_the_core_is_asked_for_unless_somebody_else_reads_it() -> None:
    """Who sets the variables wants them."""
    loaded = sys.modules.pop("grpc", None)
    try:
        ours = {"GRPC_VERBOSITY": "NONE"}
        assert enable(ours)
        assert ours == {"GRPC_VERBOSITY": "INFO", "GRPC_TRACE": "handshaker"}
        for theirs in ({"GRPC_VERBOSITY": "DEBUG"}, {"GRPC_TRACE": "http"}):
            assert not enable(dict(theirs))
    finally:
        if loaded is not None:
            sys.modules["grpc"] = loaded
            assert not enable({}), "it has been read by then"


def test_standard_error_stays_that_of_the_program() -> None:
    """What Python logs arrives once, and what is written to descriptor 2 comes as a line of the log."""
    program = (
        "import logging, os, sys\n"
        "from loiter_aggregator.access import core_log\n"
        "logging.basicConfig(format='LOG %(message)s')\n"
        "with core_log.capture():\n"
        "    logging.warning('of Python')\n"
        "    print('printed', file=sys.stderr)\n"
        "    os.write(2, b'of another\\n')\n"
        "os.write(2, b'afterwards\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env={**os.environ}
    )
    assert sorted(done.stderr.splitlines()) == ["LOG of Python", "LOG of another", "afterwards", "printed"]
