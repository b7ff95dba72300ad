"""What the web page takes from others: declared, fetched once, checked, and nothing of it left to chance."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from support.programs import ROOT

FOLDER: Final = ROOT / "deploy" / "web_assets"
SCRIPT: Final = b"export const one = 1;\n"


@pytest.fixture(scope="module")
def fetch() -> Iterator[ModuleType]:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("fetch_web_assets", FOLDER / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def tarball(files: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A package as npm has it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def integrity(content: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def package(fetch: ModuleType, content: bytes, path: str = "dist/one.js", to: str = "one.js") -> Any:
    wanted = fetch.Wanted(path, to, hashlib.sha256(SCRIPT).hexdigest())
    return fetch.Package("one", "1.2.3", integrity(content), (wanted,))


GOOD: Final = tarball({"package/dist/one.js": SCRIPT, "package/other.js": b"x"})


@pytest.fixture
def registry() -> Iterator[tuple[str, list[str]]]:
    """A registry that has the package, and the paths that it was asked for."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/npm/one/-/one-1.2.3.tgz"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(GOOD)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/npm/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_wanted_is_fetched_once(fetch: ModuleType, registry: tuple[str, list[str]], tmp_path: Path) -> None:
    """And nothing else of the package. What was changed or lost is fetched again."""
    address, asked = registry
    one, folder = package(fetch, GOOD), tmp_path / "vendor"
    assert fetch.provide([one], folder, address) == ["one 1.2.3"]
    assert fetch.provide([one], folder, address) == []
    assert asked == ["/npm/one/-/one-1.2.3.tgz"]
    assert [file.name for file in folder.iterdir()] == ["one.js"]
    assert (folder / "one.js").read_bytes() == SCRIPT
    (folder / "one.js").write_text("changed")
    assert fetch.provide([one], folder, address) == ["one 1.2.3"]
    assert (folder / "one.js").read_bytes() == SCRIPT
    assert (folder / "one.js").stat().st_mode & 0o777 == 0o644


def test_what_is_there_needs_no_network(fetch: ModuleType, tmp_path: Path) -> None:
    """As in what is built of a source archive."""
    (tmp_path / "one.js").write_bytes(SCRIPT)
    assert fetch.provide([package(fetch, GOOD)], tmp_path, "http://127.0.0.1:1/") == []


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tarball({"package/dist/one.js": b"other"}), "dist/one.js in one 1.2.3 has the sha256 "),
        (tarball({"dist/one.js": SCRIPT}), "there is no dist/one.js in one 1.2.3"),
        (tarball({}, link("package/dist/one.js", "/etc/passwd", tarfile.SYMTYPE)), "is no plain file"),
        (tarball({}, link("package/dist/one.js", "../../../etc/passwd", tarfile.LNKTYPE)), "is no plain file"),
        (tarball({}, link("package/dist/one.js", "", tarfile.FIFOTYPE)), "is no plain file"),
        (tarball({}, link("package/dist/one.js", "", tarfile.DIRTYPE)), "is no plain file"),
        (GOOD[: len(GOOD) // 2], "the tarball of one 1.2.3 can not be read"),
        (gzip.compress(b"nonsense" * 1_000), "the tarball of one 1.2.3 can not be read"),
        (b"nonsense", "the tarball of one 1.2.3 can not be read"),
    ],
    ids=["other", "elsewhere", "symlink", "link", "fifo", "folder", "cut", "no archive", "nonsense"],
)
def test_a_tarball_that_is_not_as_it_should_be_is_not_used(fetch: ModuleType, content: bytes, said: str) -> None:
    """Even one of the right hash."""
    with pytest.raises(fetch.AssetError) as caught:
        fetch.unpack(package(fetch, content), content)
    assert said in str(caught.value)


def test_a_tarball_other_than_the_declared_one_is_not_even_opened(fetch: ModuleType) -> None:
    """The found hash is said, for who takes another version."""
    with pytest.raises(fetch.AssetError, match="not what was declared: sha512-"):
        fetch.unpack(package(fetch, GOOD), GOOD + b"x")


@pytest.mark.parametrize("to", ["../one.js", "/etc/one.js", "a/one.js", ".one.js", ""])
def test_a_file_goes_nowhere_but_into_the_folder(fetch: ModuleType, tmp_path: Path, to: str) -> None:
    """Whatever was declared."""
    file = tmp_path / "assets.toml"
    file.write_text(
        '[[package]]\nname = "a"\nversion = "1"\nintegrity = "sha512-"\n'
        f'[package.files."x"]\nto = "{to}"\nsha256 = ""\n'
    )
    with pytest.raises(fetch.AssetError, match="is not the name of a file"):
        fetch.read_declaration(file)


def test_a_registry_that_can_not_be_reached_is_said_with_what_to_do(
    fetch: ModuleType, registry: tuple[str, list[str]]
) -> None:
    """Which package, from where, why, and how else."""
    address, _ = registry
    for where, why in (("http://127.0.0.1:1/", "Connection refused"), (f"{address}other/", "Not Found")):
        with pytest.raises(fetch.AssetError) as caught:
            fetch.download(package(fetch, GOOD), where)
        text = str(caught.value)
        assert all(part in text for part in ("one 1.2.3", where, why, "npm_config_registry", "one.js"))
    with pytest.raises(fetch.AssetError, match="no registry of npm"):
        fetch.download(package(fetch, GOOD), "file:///etc/")


def test_the_registry_is_that_of_npm(fetch: ModuleType, tmp_path: Path) -> None:
    """By the environment, by .npmrc, or npm's own."""
    assert fetch.registry({}, tmp_path) == "https://registry.npmjs.org/"
    (tmp_path / ".npmrc").write_text(
        'audit=false\n@scope:registry=https://scope.example/\nregistry = "https://a.example/"\n'
    )
    assert fetch.registry({}, tmp_path) == "https://a.example/"
    assert fetch.registry({"NPM_CONFIG_REGISTRY": "https://b.example/"}, tmp_path) == "https://b.example/"
    assert fetch.registry({"npm_config_registry": "https://c.example/"}, tmp_path) == "https://c.example/"
    (tmp_path / "other").write_text("registry=https://d.example/\n")
    assert fetch.registry({"npm_config_userconfig": str(tmp_path / "other")}, tmp_path) == "https://d.example/"


def test_what_is_declared_is_there_and_comes_with_its_licence(fetch: ModuleType) -> None:
    """In this source tree, as `make setup` leaves it, and out of git."""
    packages = fetch.read_declaration()
    for one in packages:
        assert fetch.is_there(one, fetch.FOLDER), f"{one}: run deploy/web_assets/fetch.py"
        assert any("LICENSE" in wanted.path for wanted in one.files)
    declared = {wanted.to for one in packages for wanted in one.files}
    assert set(os.listdir(fetch.FOLDER)) == declared
    assert f"/{fetch.FOLDER.relative_to(ROOT)}/" in (ROOT / ".gitignore").read_text().splitlines()
