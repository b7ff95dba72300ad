"""Builds the images of deploy/container by buildah, without a registry: upon the lab's Debian with its Python 3.11."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.programs import ROOT
from systemd.lab.template import template
from systemd.lab.tools import here

_FOLDER: Final = ROOT / "deploy" / "container"
_BASE: Final = "localhost/base"
_AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_SECONDS: Final = 600


class Builder:
    """Keeps images and containers in a folder of its own, and nothing elsewhere."""

    def __init__(self, folder: Path) -> None:
        """Takes an empty folder."""
        self._storage = (
            "--root",
            str(folder / "storage"),
            "--runroot",
            str(folder / "run"),
            "--storage-driver",
            "overlay",
        )

    def base(self) -> None:
        """Makes the image that the others are built upon. pip is to trust whom this machine trusts."""
        container = self._run("from", "scratch")
        root = Path(self._run("mount", container))
        # The tree holds no devices that a container could not make for itself.
        here("cp", "--archive", f"{template()}/.", root)
        shutil.copy(_AUTHORITIES, root / _AUTHORITIES.relative_to("/"))
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
        self._run("umount", container)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._run("config", "--env", f"PIP_CERT={_AUTHORITIES}", "--env", path, container)
        self._run("commit", "--quiet", "--rm", container, _BASE)

    def build(self, target: str) -> None:
        """Builds one of the images."""
        files = ("--file", _FOLDER / "Containerfile", "--ignorefile", _FOLDER / "Containerfile.dockerignore")
        options = ("--isolation", "chroot", "--pull-never", "--layers", "--build-arg", f"BASE={_BASE}")
        self._run("build", *options, *files, "--target", target, "--tag", target, ROOT)

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The root folder of a container of an image, for as long as the block lasts."""
        container = self._run("from", "--pull-never", f"localhost/{image}")
        try:
            yield Path(self._run("mount", container))
        finally:
            self._run("umount", container)
            self._run("rm", container)

    def configuration(self, image: str) -> tuple[list[str], list[str]]:
        """The entry point of an image, and its environment."""
        form = (
            "{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}--\n{{range .OCIv1.Config.Env}}{{println .}}{{end}}"
        )
        words = self._run("inspect", "--type", "image", "--format", form, f"localhost/{image}")
        entry_point, _, environment = words.partition("--")
        return entry_point.split(), environment.split()

    def remove(self) -> None:
        """Removes all that it has made."""
        self._run("rm", "--all")
        self._run("rmi", "--all", "--force")

    def _run(self, *words: str | Path) -> str:
        done = subprocess.run(
            ["buildah", *self._storage, *words],
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"buildah {words[0]}: {done.stderr[-4_000:]}"
        return done.stdout.strip()
