"""The root file system that hosts are laid over: Debian with systemd, built once by debootstrap and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from systemd.lab.tools import LabError, here, lab_folder, locked

# What Debian's installer gives every host, and what packages of this project depend on: hosts can not download.
PACKAGES: Final = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "openssl",
    "procps",
    "python3",
    "python3-apt",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)
_MASKED: Final = (
    # Nothing periodic should wake up in the middle of a test.
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
    # Of no use to a container. Where many file systems are mounted within a second, systemd puts the starts of mount
    # units off, and version 252 forgets them now and then: the boot hangs.
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
)
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS: Final = 900


def template() -> Path:
    """Returns the folder with the template; builds it where it is not there yet. Raises LabError."""
    suite = _suite()
    recipe = hashlib.sha256(" ".join((suite, *PACKAGES, *_MASKED)).encode()).hexdigest()[:12]
    folder = lab_folder() / f"{suite}-{recipe}"
    with locked(lab_folder() / "template.lock"):
        if not folder.exists():
            _build(suite, folder)
    return folder


def _suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise LabError("/etc/os-release names no release of Debian")


def _build(suite: str, folder: Path) -> None:
    part, archives = folder.with_suffix(".part"), lab_folder() / "archives"
    shutil.rmtree(part, ignore_errors=True)
    archives.mkdir(exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--cache-dir={archives}", f"--include={','.join(PACKAGES)}"]
    command += [f"--keyring={_KEYRING}", suite, str(part), _archive(suite)]
    environment = {**os.environ, **({"http_proxy": proxy} if (proxy := _proxy()) else {})}
    with (lab_folder() / "debootstrap.log").open("w") as log:
        done = subprocess.run(
            command, stdout=log, stderr=log, env=environment, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    if done.returncode != 0:
        raise LabError(f"debootstrap failed: {log.name} ends\n{Path(log.name).read_text()[-1_000:]}")
    for name in ("etc/machine-id", "etc/hostname", *(f"etc/ssh/{key.name}" for key in part.glob("etc/ssh/*_key*"))):
        (part / name).unlink(missing_ok=True)
    for cache in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        for content in (part / cache).iterdir():
            shutil.rmtree(content) if content.is_dir() and not content.is_symlink() else content.unlink()
    here("chroot", part, "systemctl", "mask", "--quiet", *_MASKED)
    # Hosts have no keys for ssh until a test makes them.
    here("chroot", part, "systemctl", "disable", "--quiet", "ssh.service")
    part.rename(folder)


def _archive(suite: str) -> str:
    """The archive that this machine's own packages come from."""
    targets = here(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    ).stdout
    for line in targets.splitlines():
        address, release, component = line.split()
        if (release, component) == (suite, "main"):
            return address
    raise LabError(f"apt has no archive with {suite}/main")


def _proxy() -> str:
    shell = here("apt-config", "shell", "PROXY", "Acquire::http::Proxy").stdout.strip()
    return shell.removeprefix("PROXY=").strip("'\"")
