"""`loiter-agent check`, from its flags to its exit status."""

from __future__ import annotations

import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from loiter.service_install.systemd import properties, service_state
from loiter.tls_diagnosis import validity
from loiter.transport import Security
from loiter.version import version
from loiter_agent.checks.clock import check_clock, is_synchronized
from loiter_agent.checks.disk import check_disk
from loiter_agent.checks.finding import Finding
from loiter_agent.checks.report import check_report
from loiter_agent.checks.rights import seen_by_service
from loiter_agent.checks.seen import seen
from loiter_agent.checks.servers import check_certificate, check_servers, only_root_can_try
from loiter_agent.checks.show import as_json as shown_as_json
from loiter_agent.checks.show import as_table, works
from loiter_agent.checks.unit import PROPERTIES, check_unit, rights_of
from loiter_agent.commands.settings import check_files, read_settings
from loiter_agent.config import AgentSettings
from loiter_agent.install.places import CREDENTIALS, UNIT, credential, security
from loiter_agent.install.verify import read_status
from loiter_agent.probe import probe
from loiter_agent.status import INSTALLED_FILE


def check(config: Path | None, servers: list[str] | None, *, as_json: bool) -> None:
    """Checks, prints, and exits with 1 where something that is needed does not work. Raises SettingsError."""
    logging.getLogger("loiter").setLevel(logging.ERROR)
    settings = read_settings(config, {"server": servers})
    check_files(settings)
    whose, findings = _rights()
    findings += _around(settings)
    if as_json:
        print(shown_as_json(whose, findings))
    else:
        host = os.uname()
        heading = f"{host.nodename}: agent {version()}, Linux {host.release}, with the rights of {whose}"
        print(as_table(heading, findings))
    sys.exit(0 if works(findings) else 1)


def _rights() -> tuple[str, list[Finding]]:
    """What depends on rights, with those of the service where root asks; and whose they are."""
    asking = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    if os.geteuid() == 0 and service_state(UNIT).loaded:
        given = rights_of(properties(UNIT, *PROPERTIES))
        found = seen_by_service(given) if given is not None else None
        if found is not None:
            return UNIT, found
    return asking, seen()


def _around(settings: AgentSettings) -> list[Finding]:
    """What does not depend on rights."""
    service = service_state(UNIT)
    own = os.geteuid() == 0 or not service.loaded
    shown = _security(settings)
    probes = [probe(server, shown) for server in settings.server] if own else []
    findings = [
        check_clock(is_synchronized(), probes),
        check_disk(settings.state_dir, settings.spool.max_bytes, made_by_systemd=service.loaded),
        check_unit(service, properties(UNIT, *PROPERTIES)),
    ]
    if not own:
        return [*findings, only_root_can_try()]
    findings += [*check_servers(probes), *_certificates(shown)]
    if service.active:
        findings.append(check_report(read_status(INSTALLED_FILE), service.main_pid, time.time()))
    return findings


def _security(settings: AgentSettings) -> Security:
    """What the service shows, where it is installed with files of its own and they may be read."""
    return security(settings, {name: credential(name) for name in CREDENTIALS if os.path.exists(credential(name))})


def _certificates(shown: Security) -> list[Finding]:
    now = datetime.now(UTC)
    files = {"authority": shown.ca, "certificate": shown.certificate}
    return [check_certificate(what, file, validity(file), now) for what, file in files.items() if file is not None]
