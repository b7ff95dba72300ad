"""What each target begins with: inputs that are right, for others to be made from; and those that broke it once."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Final

from fuzz.access_targets import TOKEN, TOKEN_FILE
from fuzz.kernel_targets import PROC_FILES, SEQUENCE
from loiter.v1 import ingest_service_pb2 as pb
from loiter.v1.socket_pb2 import TCP_STATE_CLOSE_WAIT, SocketQuery
from support.netlink_messages import done, error, full_socket, mini_socket, tcp_info
from support.proctree_fake import limits, stat
from support.reports import full_report, hello, report

_FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
_FOUND: Final = Path(__file__).parent / "found"
_CERTIFICATE: Final = (_FIXTURES / "host_certificate.pem").read_bytes()
_LONGEST: Final = 4_096

_PROC_TEXTS: Final = {
    "_stat": (stat(42, "tmux: server", 987_654), stat(2, b"a) S 1 (b\xff", 3, kernel_thread=True)),
    "_limits": (limits("1024", "unlimited").encode(),),
    "_cgroup": (
        b"5:cpu,cpuacct:/\n1:name=systemd:/system.slice/nginx.service\n0::/system.slice/nginx.service\n",
        b"0::/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-" + b"0123456789abcdef" * 4 + b".scope\n",
    ),
    "_mountinfo": (
        b"24 29 0:22 / /proc rw,nosuid shared:12 - proc proc rw,hidepid=2\n"
        b"32 31 0:28 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:6 - cgroup2 cgroup2 rw,nsdelegate\n"
        b"33 31 0:29 / /sys/fs/cgroup/cpu rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n"
        b"40 30 0:4 net:[4026532001] /run/netns/blue rw shared:9 - nsfs nsfs rw\n",
    ),
    "_sockstat": (b"sockets: used 290\nTCP: inuse 7 orphan 1 tw 42 alloc 12 mem 3\n\0TCP6: inuse 5\nUDP6: inuse 1\n",),
    "_reserved_ports": (b"8080,9148-9150,40000-50000\n", b"\n"),
    "parse_schedstat": (b"2500000000 500000000 17\n",),
    "parse_wait_channel": (b"futex_do_wait", b"0"),
    "parse_pressure": (b"some avg10=1.50 avg60=0.00 avg300=0.00 total=123456\nfull avg10=0.00 total=0\n",),
    "parse_throttling": (
        b"usage_usec 5\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n",
        b"nr_periods 10\nnr_throttled 4\nthrottled_time 250000000\n",
    ),
    "parse_file_nr": (b"1952\t0\t9223372036854775807\n",),
    "parse_time_wait_overflows": (b"TcpExt: TW TCPTimeWaitOverflow\nTcpExt: 5 17\nIpExt: A\nIpExt: 1\n",),
    "parse_port_range": (b"32768\t60999\n",),
}

_NET_TCP: Final = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    b"   1: 0100007F:1F90 0200007F:C350 08 00000000:00000019 00:00000000 00000000     0        0 4712 1 0 20\n"
    b"   4: 0100007F:1F90 0400007F:C353 03 00000000:00000000 01:0000005A 00000000     0        0 0 0 0000000000000000\n"
    b"   5: 0100007F:C354 0300007F:0050 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000\n"
)
_NET_TCP6: Final = (
    b"  sl  local_address remote_address st tx_queue rx_queue tr tm->when\n"
    b"   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000"
    b" 00:00000000 00000000     0        0 5000 1 0000000000000000 100 0 0 10 0\n"
)

_AGENT_TOML: Final = b"""server = ["a:7433", "[::1]:7433"]
interval = "10s"
state_dir = "/var/lib/loiter-agent"
insecure = false
cpu_budget = "2%"
labels = { role = "web", dc = "fra1" }
[processes]
top = 50
[spool]
max_bytes = "64MB"
max_age = "3d"
[tls]
ca = "/etc/loiter/ca.pem"
"""
_AGGREGATOR_TOML: Final = b"""listen = "127.0.0.1:7433"
data_dir = "/var/lib/loiter"
log_level = "info"
[store]
retention = "24h"
memory_limit = "1GB"
[limits]
streams = 50000
query_seconds = "30s"
"""


def seeds(target: str) -> list[bytes]:
    """The inputs that a target begins with."""
    found = [file.read_bytes() for file in sorted((_FOUND / target).glob("*"))]
    return [*_SEEDS[target], *found]


def _netlink() -> tuple[bytes, ...]:
    truth = json.loads((_FIXTURES / "sock_diag.json").read_text("ascii"))
    assert truth["sequence"] == SEQUENCE, "the captured dumps are answers to another request"
    captured = [file.read_bytes() for file in sorted(_FIXTURES.glob("sock_diag.*.bin"))]
    sockets = (
        full_socket(1, 4711) + mini_socket(6, expires=30_000),
        full_socket(8, 4712, receive_queue=1, more=tcp_info(1_500)) + done(),
        full_socket(10, 4713, local=("::1", 80), remote=("::", 0)) * 3,
        mini_socket(3, mark=True) * 2,
        error(-13),
        done(-4),
    )
    return (*sockets, *(dump for dump in captured if len(dump) <= _LONGEST))


def _proc_texts() -> tuple[bytes, ...]:
    return tuple(
        bytes([index]) + text for index, parser in enumerate(PROC_FILES) for text in _PROC_TEXTS[parser.__name__]
    )


def _requests() -> tuple[bytes, ...]:
    messages = (
        pb.StreamReportsRequest(hello=hello("web-1", labels={"role": "web"})),
        pb.StreamReportsRequest(report=report("web-1")),
        pb.StreamReportsRequest(report=full_report()),
    )
    return tuple(message.SerializeToString() for message in messages)


_SEEDS: Final = {
    "netlink": _netlink(),
    "proc_net_tcp": (b"4" + _NET_TCP, b"6" + _NET_TCP6),
    "proc_text": _proc_texts(),
    "names": (
        b"/system.slice/system-my\\x2dapp.slice/my-app@1.service\0/usr/bin/python3.11\0python3\0python3\0-m\0http.server",
        b"/system.slice/docker-" + b"0123456789abcdef" * 4 + b".scope\0/usr/sbin/nginx (deleted)\0nginx\0nginx: worker",
        b"/lxc/web/init.scope\0/usr/bin/node\0node\0node\0--inspect\0/srv/app/server.js",
        b"/\0/usr/bin/java\0java\0java\0-Xmx1g\0-jar\0/opt/order-api.jar\xff",
    ),
    "request": _requests(),
    "socket_query": (
        SocketQuery(query_id=7, pid=100, limit=20, states=[TCP_STATE_CLOSE_WAIT]).SerializeToString(),
        SocketQuery(limit=2**32 - 1).SerializeToString(),
    ),
    "mutated_request": (b"hello", b"\x00", b"\x50answer", b"\x80report", b"\xff" * 9, bytes(range(64))),
    "settings_file": (_AGENT_TOML, _AGGREGATOR_TOML, b"interval = 5\n", b"[labels]\nrole = 'a'\n", b"\xff"),
    "settings_environment": (b"INTERVAL\x0010s\0SPOOL_MAX_BYTES\x0064MB", b"LISTEN\0[::]:7433\0STORE_RETENTION\x001h"),
    "labels_file": (
        b"# ours\nrole=web\n\n dc = fra1 \r\nempty=\n",
        b"a=b\n" * 33,
        b"a=b\na=c\n",
        b"role",
        b"x=\x1b[31m\xff",
    ),
    "words": (
        b"10s",
        b"1.5h",
        b"64MB",
        b"2%",
        b"[fe80::1%eth0]:7433",
        b"a:1,b:2",
        b"role=web,dc=fra1",
        b"\x1b[31m\xe2\x80\xae",
        b"127.0.0.1:7433",
    ),
    "host_header": (b"127.0.0.1:7434", b"[::1]:7434", b"localhost", b"loiter.example.net.:443"),
    "way_back": (b"/top/hosts?by=stuck&window=10m", b"//evil.example/", b"https://evil.example/"),
    "login_cookie": (b"WyIwMTIzYWJjZCIsIjAxMjMiLDE4MDAwMDAwMDBd.c2lnbmF0dXJl", b"; loiter-7434=a.b", b'"\\054"'),
    "token": (TOKEN.encode(), TOKEN.upper().encode(), b"loiter_0123abce_" + b"0" * 64),
    "token_file": (TOKEN_FILE, TOKEN.encode() + b"\n", b'{"version": 1, "tokens": []}'),
    "certificate": (_CERTIFICATE, ssl.PEM_cert_to_DER_cert(_CERTIFICATE.decode())),
    "spool_file": (b"", *(bytes([0, page, 0, 1]) for page in range(0, 160, 16)), b"\x00\x10\x01\xff" * 3),
    "revoked_file": (b"# web-1\nserial=0A:FF:12 web-1\n1234abcd\n", b"serial=00\n"),
}
