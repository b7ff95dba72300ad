"""Fetches what assets.toml names from the registry of npm, and puts it where the web page serves it from.

Needs nothing but Python. Usage: fetch.py [FOLDER]. What is there already, and right, is not fetched again: so what is
built of a source archive, which holds the files, needs no network.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import re
import sys
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent
DECLARATION: Final = _HERE / "assets.toml"
FOLDER: Final = _HERE.parents[1] / "aggregator/loiter_aggregator/web/static/vendor"
_DEFAULT_REGISTRY: Final = "https://registry.npmjs.org/"
_TIMEOUT_SECONDS: Final = 60
_MAX_BYTES: Final = 20_000_000


class AssetError(Exception):
    """A file can not be had, or is not what it should be. The message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file of a package: where it is in there, what it is called here, and its SHA-256."""

    path: str
    to: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm, and what is taken of it. `integrity` is the SHA-512 of its tarball, as npm writes it."""

    name: str
    version: str
    integrity: str
    files: tuple[Wanted, ...]

    def __str__(self) -> str:
        """How people call it."""
        return f"{self.name} {self.version}"


def read_declaration(file: Path = DECLARATION) -> tuple[Package, ...]:
    """Reads which packages there are. Raises AssetError where one is not declared as it has to be."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
        packages = tuple(
            Package(
                row["name"],
                row["version"],
                row["integrity"],
                tuple(Wanted(path, one["to"], one["sha256"]) for path, one in row["files"].items()),
            )
            for row in document["package"]
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{file} can not be read: {error!r}") from None
    for package in packages:
        for wanted in package.files:
            if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", wanted.to) is None:
                raise AssetError(f"{file}: {wanted.to!r} is not the name of a file")
    return packages


def registry(environment: Mapping[str, str], home: Path) -> str:
    """The registry that npm is configured to use: by the environment, or by .npmrc in the home folder."""
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        if environment.get(name):
            return environment[name]
    named = environment.get("npm_config_userconfig") or environment.get("NPM_CONFIG_USERCONFIG")
    try:
        lines = (Path(named) if named else home / ".npmrc").read_text("utf-8", "replace").splitlines()
    except OSError:
        return _DEFAULT_REGISTRY
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and name.strip() == "registry":
            return value.strip().strip("\"'")
    return _DEFAULT_REGISTRY


def provide(packages: Sequence[Package], folder: Path, address: str) -> list[str]:
    """Puts the files of packages into a folder, and says of which it had to fetch. Raises AssetError."""
    fetched = []
    for package in packages:
        if not is_there(package, folder):
            put(package, unpack(package, download(package, address)), folder)
            fetched.append(str(package))
    return fetched


def is_there(package: Package, folder: Path) -> bool:
    """Whether the files of a package are in a folder, as they should be."""
    for wanted in package.files:
        try:
            content = (folder / wanted.to).read_bytes()
        except OSError:
            return False
        if hashlib.sha256(content).hexdigest() != wanted.sha256:
            return False
    return True


def download(package: Package, address: str) -> bytes:
    """Fetches the tarball of a package. Raises AssetError."""
    url = f"{address.rstrip('/')}/{package.name}/-/{package.name}-{package.version}.tgz"
    if not url.startswith(("https://", "http://")):
        raise AssetError(f"{address!r} is no registry of npm: it does not begin with https://")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - see above
            content: bytes = answer.read(_MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise AssetError(
            f"cannot fetch {package}, which the web page needs, from {url}: {reason}.\n"
            "Where that can not be reached, name another registry of npm by npm_config_registry, "
            f"or copy {', '.join(wanted.to for wanted in package.files)} to {FOLDER}"
        ) from None
    if len(content) > _MAX_BYTES:
        raise AssetError(f"{url} is larger than {_MAX_BYTES:,} bytes")
    return content


def unpack(package: Package, tarball: bytes) -> dict[str, bytes]:
    """Takes the files that are wanted out of a tarball, and nothing else. Pure.

    Raises:
        AssetError: The tarball or a file in it is not the one that was declared.
    """
    algorithm, _, expected = package.integrity.partition("-")
    if algorithm != "sha512":
        raise AssetError(f"the integrity of {package} is not a sha512")
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != expected:
        raise AssetError(f"what the registry has for {package} is not what was declared: sha512-{found}")
    try:
        with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
            contents = {wanted.to: _read(package, archive, wanted) for wanted in package.files}
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise AssetError(f"the tarball of {package} can not be read: {error}") from None
    return contents


def put(package: Package, contents: Mapping[str, bytes], folder: Path) -> None:
    """Writes files into a folder, each whole or not at all. Raises AssetError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as stream:
                stream.write(content)
            os.chmod(stream.name, 0o644)
            os.replace(stream.name, folder / name)
    except OSError as error:
        raise AssetError(f"cannot write the files of {package} to {folder}: {error.strerror}") from None


def _read(package: Package, archive: tarfile.TarFile, wanted: Wanted) -> bytes:
    try:
        member = archive.getmember(f"package/{wanted.path}")
    except KeyError:
        raise AssetError(f"there is no {wanted.path} in {package}") from None
    # A link could lead to any file of this machine.
    stream = archive.extractfile(member) if member.isreg() and member.size <= _MAX_BYTES else None
    if stream is None:
        raise AssetError(f"{wanted.path} in {package} is no plain file, or too large")
    content = stream.read()
    found = hashlib.sha256(content).hexdigest()
    if found != wanted.sha256:
        raise AssetError(f"{wanted.path} in {package} has the sha256 {found}, and {wanted.sha256} was declared")
    return content


def main(arguments: Sequence[str]) -> int:
    """Fetches what is missing. Returns the exit status."""
    folder = Path(arguments[0]) if arguments else FOLDER
    try:
        fetched = provide(read_declaration(), folder, registry(os.environ, Path.home()))
    except AssetError as error:
        print(f"web assets: {error}", file=sys.stderr)
        return 1
    print(f"web assets: {', '.join(fetched) + ' fetched' if fetched else 'all are there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
