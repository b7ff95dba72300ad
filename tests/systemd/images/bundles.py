"""Turns a pod of deploy/kubernetes into a bundle for runc, as a node would: the config.json of OCI runtimes.

What is of the cluster alone is left out: cgroups with limits, AppArmor, and the kubelet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# The profile that container runtimes call their default.
_SECCOMP: Final = Path("/usr/share/containers/seccomp.json")
_MASKED: Final = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

Json = dict[str, Any]


def bundle(
    pod: Json, command: list[str], environment: list[str], files: Mapping[str, Path], root: Path, netns: Path
) -> Json:
    """The configuration of the one container of a pod.

    Args:
        pod: Its specification.
        command: What the image runs; the container's arguments follow.
        environment: That of the image, and what the cluster would fill in.
        files: What is mounted where in the container: each of its mounts has to be there.
        root: The root file system of the container.
        netns: The node's network.
    """
    (container,) = pod["containers"]
    security = {**pod.get("securityContext", {}), **container["securityContext"]}
    capabilities = sorted(f"CAP_{name}" for name in security["capabilities"].get("add", []))
    assert security["capabilities"]["drop"] == ["ALL"]
    user = security["runAsUser"]
    namespaces: list[Json] = [{"type": "mount"}, {"type": "ipc"}, {"type": "network", "path": str(netns)}]
    namespaces += [] if pod.get("hostPID") else [{"type": "pid"}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": security["runAsGroup"]},
            "args": [*command, *container["args"]],
            "env": [*environment, *(f"{one['name']}={one['value']}" for one in container["env"] if "value" in one)],
            "cwd": "/",
            "noNewPrivileges": not security["allowPrivilegeEscalation"],
            # Of another user than root only the bound remains, as there are no ambient capabilities in Kubernetes.
            "capabilities": {"bounding": capabilities}
            | ({"effective": capabilities, "permitted": capabilities} if user == 0 else {}),
        },
        "root": {"path": str(root), "readonly": security["readOnlyRootFilesystem"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            *(_mount(one, files) for one in container["volumeMounts"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "seccomp": _seccomp(set(capabilities)),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _mount(one: Json, files: Mapping[str, Path]) -> Json:
    access = "ro" if one.get("readOnly") else "rw"
    path = one["mountPath"]
    return {"destination": path, "type": "bind", "source": str(files[path]), "options": ["rbind", access]}


def _seccomp(capabilities: set[str]) -> Json:
    """The default profile for a process with these capabilities, in the form that runtimes take."""
    profile = json.loads(_SECCOMP.read_text())
    calls = []
    for rule in profile["syscalls"]:
        included, excluded = rule.get("includes", {}), rule.get("excludes", {})
        if not _holds(included, capabilities, absent=True) or _holds(excluded, capabilities, absent=False):
            continue
        call = {key: rule[key] for key in ("names", "action", "args") if rule.get(key)}
        if rule["action"] == "SCMP_ACT_ERRNO" and "errnoRet" in rule:
            call["errnoRet"] = rule["errnoRet"]
        calls.append(call)
    return {"defaultAction": profile["defaultAction"], "defaultErrnoRet": 38, "syscalls": calls}


def _holds(conditions: Json, capabilities: set[str], *, absent: bool) -> bool:
    """Whether a rule is for such a process on this architecture; `absent` is what it means that nothing is said."""
    said = [
        bool(set(conditions["caps"]) & capabilities) if conditions.get("caps") else None,
        "amd64" in conditions["arches"] if conditions.get("arches") else None,
    ]
    known = [one for one in said if one is not None]
    return (all(known) if absent else any(known)) if known else absent
