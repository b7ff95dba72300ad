"""Makes pages of many rows beside the event loop, which has thousands of agents to serve meanwhile."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

# More than that nobody reads, and no browser likes to show: files take the rest.
MAX_ROWS: Final = 500
# So many are made sooner than handed to a thread and back.
_FEW_ROWS: Final = 50
# Python runs one thread at a time: more would only take turns with the event loop more often.
_AT_ONCE: Final = 2
_MIN_PACKED_BYTES: Final = 1_000
_PACKING_LEVEL: Final = 5


def page_makers() -> ThreadPoolExecutor:
    """The threads that pages are made in. What waits for one is bounded by the connections there may be."""
    return ThreadPoolExecutor(_AT_ONCE, "page")


async def make(request: Request, rows: int, page: Callable[[], Response]) -> Response:
    """Makes a page of about so many rows, and packs it: of many, in a thread. `page` may only read what others see."""
    if rows <= _FEW_ROWS:
        return page()
    takes_gzip = "gzip" in request.headers.get("accept-encoding", "")
    makers: ThreadPoolExecutor = request.app.state.makers
    return await asyncio.get_running_loop().run_in_executor(makers, lambda: _packed(page(), takes_gzip))


def _packed(response: Response, takes_gzip: bool) -> Response:
    """The same, compressed where the browser takes that. What is compressed here is left alone by the middleware."""
    response.headers.add_vary_header("accept-encoding")
    if takes_gzip and len(response.body) >= _MIN_PACKED_BYTES:
        response.body = gzip.compress(response.body, _PACKING_LEVEL, mtime=0)
        response.headers["content-encoding"] = "gzip"
        response.headers["content-length"] = str(len(response.body))
    return response
