"""`loiter-agent install`: the agent as a service of systemd."""

from __future__ import annotations

import argparse
from typing import Final

HELP: Final = "install the agent as a service, start it, and see that its reports arrive"

OPT_INS: Final = ("namespaces", "close-tracer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares its flags."""
    parser.add_argument("--server", action="append", metavar="HOST:PORT", help="an aggregator; may be given again")
    parser.add_argument("--ca", metavar="FILE", help="certificates of the authorities that aggregators are trusted by")
    parser.add_argument("--certificate", metavar="FILE", help="certificate of this host, with its chain")
    parser.add_argument("--key", metavar="FILE", help="private key of that certificate")
    parser.add_argument("--token-file", metavar="FILE", help="file with the token that allows to report")
    parser.add_argument("--label", action="append", metavar="KEY=VALUE", help="a label; may be given again")
    parser.add_argument("--labels-file", metavar="FILE", help="labels, a line each; read where it is")
    parser.add_argument("--interval", metavar="DURATION", help="time between two samples, such as 10s")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="report in plaintext, also off this machine"
    )
    parser.add_argument(
        "--with",
        dest="opt_ins",
        action="append",
        choices=OPT_INS,
        default=[],
        help="give the service more rights: to enter network namespaces (CAP_SYS_ADMIN), to trace closes (CAP_BPF, "
        "CAP_PERFMON); may be given again",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument("--no-start", action="store_true", help="do not start it before the next boot")
    parser.add_argument(
        "--timeout", metavar="DURATION", default="60s", help="how long to wait for an acknowledgement; default: 60s"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a unit of another's, and install although no aggregator lets it in",
    )


def execute(options: argparse.Namespace) -> None:
    """Installs, and exits with 1 where something is in the way or no report is acknowledged in time."""
    from loiter_agent.install.installing import install  # late: only `install` does

    install(options)
