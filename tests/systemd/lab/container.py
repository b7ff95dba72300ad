"""The container of a host. In a mount namespace of its own, it mounts the host's root and has systemd boot in it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from systemd.lab import cgroups, network
from systemd.lab.plan import Plan
from systemd.lab.tools import here

_REBOOT: Final = 133  # systemd-nspawn's exit status when the container reboots and --keep-unit is given
_INIT: Final = "lab-init"
# Beyond those that systemd-nspawn leaves to containers, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH among them. CAP_BPF and
# the system call are what IPAddressDeny= needs, and with CAP_PERFMON what the agent needs to trace closes.
_CAPABILITIES: Final = "CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON"


def main() -> int:
    """Runs until the host powers itself off, and returns the exit status of systemd-nspawn."""
    plan = Plan.of_word(sys.argv[1])
    root = _lay(plan)
    status = _REBOOT
    while status == _REBOOT:
        cgroups.sweep(plan.cgroups)
        with subprocess.Popen(cgroups.joining(plan.cgroups, _nspawn(plan, root))) as process:
            plan.nspawn_file.write_text(str(process.pid))
            status = process.wait()
    return status


def _lay(plan: Plan) -> Path:
    """Mounts the host's root, the layers beneath and what it writes in memory, and returns its folder."""
    folder = plan.folder / "mnt"
    folder.mkdir()
    here("mount", "-t", "tmpfs", "-o", f"mode=755,size={plan.size}", "lab", folder)
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for each in (upper, work, root):
        each.mkdir()
    options = f"lowerdir={':'.join(plan.layers)},upperdir={upper},workdir={work}"
    here("mount", "-t", "overlay", "-o", options, "overlay", root)
    (root / "etc/hostname").write_text(f"{plan.name}\n")
    # The same at every boot of the host, and another for each host.
    (root / "etc/machine-id").write_text(f"{hashlib.sha256(plan.id.encode()).hexdigest()[:32]}\n")
    # Names are those of /etc/hosts. The servers of this machine, which debootstrap copied, can not be reached.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    (root / _INIT).write_text(_init())
    (root / _INIT).chmod(0o755)
    return root


def _init() -> str:
    """The container's first program.

    systemd-nspawn mounts the controllers of version 1 read-only, and MemoryMax=, CPUQuota= and TasksMax= would silently
    do nothing. To mount `memory` again writable is refused (EBUSY), a mount of its own is not.
    """
    lines = ["#!/bin/sh", f"for name in {' '.join(cgroups.controllers())}; do", '  folder="/sys/fs/cgroup/$name"']
    lines += ['  umount "$folder" && mount -t cgroup -o "nosuid,nodev,noexec,$name" cgroup "$folder"', "done"]
    return "\n".join([*lines, "exec /lib/systemd/systemd", ""])


def _nspawn(plan: Plan, root: Path) -> list[str]:
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={root}",
        f"--machine={plan.id}",
        f"--hostname={plan.name}",
        "--register=no",  # there is no systemd out here to register with,
        "--keep-unit",  # nor one to ask for a scope
        "--console=pipe",
        "--settings=no",
        f"--network-namespace-path={network.path_of(plan.id)}",
        f"--capability={_CAPABILITIES}",
        "--system-call-filter=bpf",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        f"/{_INIT}",
    ]


if __name__ == "__main__":
    sys.exit(main())
