"""Serves the files of the page: scripts, styles, pictures. They are few and small, and kept in memory."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

PREFIX: Final = "/static/"
_FOLDER: Final = Path(__file__).parent / "static"
# What a browser has to have; that it is missing is better said when the aggregator starts than by a blank page.
_VENDORED: Final = ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
# Scripts need the right type: browsers refuse them otherwise (nosniff), and not every machine's tables have it.
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".png": "image/png"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    packed: bytes | None
    media_type: str
    etag: str


class StaticFolder:
    """The files of a folder as they were when it was opened.

    The address of a file holds a hash of them all, so that browsers may keep it for ever, and what a file asks for by a
    relative address is of the same release.
    """

    def __init__(self, folder: Path = _FOLDER) -> None:
        """Reads the files."""
        self._files = dict(_read(folder))
        self.revision = _revision(self._files)

    @property
    def missing(self) -> tuple[str, ...]:
        """The files of other packages that are not there."""
        return tuple(name for name in _VENDORED if name not in self._files)

    def url(self, name: str) -> str:
        """The address of a file. Raises KeyError where there is none: a slip in a template is to be found at once."""
        if name not in self._files:
            raise KeyError(f"no file {name} among the static files")
        return f"{PREFIX}v-{self.revision}/{name}"

    async def serve(self, request: Request) -> Response:
        """Answers a request for a file. Raises HTTPException where there is none."""
        path = request.path_params["path"]
        marked, _, name = path.partition("/")
        current = marked == f"v-{self.revision}"
        if not marked.startswith("v-"):
            name = path
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        headers = {"etag": file.etag, "vary": "accept-encoding"}
        # The address of another release is answered with what there is now, and not kept.
        headers["cache-control"] = _FOR_EVER if current else "no-cache"
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        content = file.content
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            content = file.packed
        return Response(content, headers=headers, media_type=file.media_type)


def _read(folder: Path) -> Iterator[tuple[str, _File]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            packed = gzip.compress(content, 6, mtime=0)
            yield (
                path.relative_to(folder).as_posix(),
                _File(
                    content,
                    packed if len(packed) < 0.9 * len(content) else None,
                    _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain",
                    f'"{hashlib.sha256(content).hexdigest()[:20]}"',
                ),
            )


def _revision(files: Mapping[str, _File]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\0{file.etag}\0".encode())
    return digest.hexdigest()[:12]
