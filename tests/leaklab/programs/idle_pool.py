"""Keeps HTTP connections in a pool that it does not use, and the server closes them: nobody reads that it did.

A pool of urllib3, plain or over TLS. Over TLS the server says so first: its close_notify stays unread, too.
"""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import urllib3

from leaklab.lab import HOST, arguments, connect, free_port, listen, misbehaves, say, start, supervise

IDLE_SECONDS = 1.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def fill_pool(port: int, connections: int, tls: bool) -> None:
    """Makes so many requests at a time, gives the connections back to the pool, and has nothing more to ask."""
    connect(port).close()  # the server is up
    urllib3.disable_warnings()  # the certificate is nobody's
    pool = urllib3.PoolManager(maxsize=connections, cert_reqs="CERT_NONE")
    url = f"{'https' if tls else 'http'}://{HOST}:{port}/"
    responses = [pool.request("GET", url, preload_content=False) for _ in range(connections)]
    for response in responses:
        response.read()
        response.release_conn()
    signal.pause()


def serve(port: int, connections: int, context: ssl.SSLContext | None, client: int) -> None:
    """Answers, and closes connections on which nothing was asked for a second."""
    listener = listen(port)
    listener.accept()[0].close()
    idle = [_answer(listener.accept()[0], context) for _ in range(connections)]
    time.sleep(IDLE_SECONDS)
    for connection in idle:
        _hang_up(connection)
    misbehaves("idle_pool", client)
    signal.pause()


def _answer(connection: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    if context is not None:
        connection = context.wrap_socket(connection, server_side=True)
    connection.recv(4096)
    connection.sendall(ANSWER)
    return connection


def _hang_up(connection: socket.socket) -> None:
    if isinstance(connection, ssl.SSLSocket):
        connection.setblocking(False)
        with suppress(ssl.SSLWantReadError):  # sends the close_notify, and would wait for the client's
            connection.unwrap()
    connection.close()


def certificate_context(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate made for the occasion. Raises OSError where openssl is not installed."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=leaklab", "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def main() -> None:
    """Starts both ends."""
    parser = arguments(__doc__)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--connections", type=int, default=20)
    options = parser.parse_args()
    port, context = free_port(), None
    if options.tls:
        try:
            with tempfile.TemporaryDirectory() as folder:
                context = certificate_context(Path(folder))
        except OSError as error:
            say(skipped=f"no certificate: {error}")
            return
    client = start(lambda: fill_pool(port, options.connections, options.tls))
    supervise(client, start(lambda: serve(port, options.connections, context, client)))


if __name__ == "__main__":
    main()
