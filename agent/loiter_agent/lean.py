"""Keeps out of memory what libraries bring along and the agent does not use: some 6 MB on every host.

A test holds it to that: what is named here is not loaded by an agent that runs.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from types import ModuleType
from typing import NoReturn


def leave_out_openssl() -> None:
    """Has asyncio and hashlib not load OpenSSL, 3.4 MB; gRPC brings its own TLS.

    To be called before these are imported. Both run without, as they do on a Python that was built without it.
    """
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # None makes `import ssl` raise ImportError
    # hashlib has SHA-256 of its own, by the first name before Python 3.12; some distributions leave it out.
    if find_spec("_sha256") or find_spec("_sha2"):
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]


@contextmanager
def leave_out_plugins() -> Iterator[None]:
    """While APScheduler is imported: leaves out what finds its plugins, and pools of processes, 2 MB.

    The names that it takes from there are those of stand-ins: no plugins, and an executor that AsyncIOScheduler, which
    has another one, does not make.
    """

    def not_found(_: str) -> NoReturn:
        raise ModuleNotFoundError

    metadata = ModuleType("importlib.metadata")
    vars(metadata).update(version=not_found, PackageNotFoundError=ModuleNotFoundError, entry_points=lambda **_: ())
    pools = ModuleType("apscheduler.executors.pool")
    vars(pools).update(ThreadPoolExecutor=None)
    put = {
        module.__name__: module
        for module in (metadata, pools)
        if sys.modules.setdefault(module.__name__, module) is module
    }
    try:
        yield
    finally:
        for name in put:
            del sys.modules[name]


def trim() -> None:
    """Gives memory that is free back to the kernel (malloc_trim(3)), where the C library can: what starting took."""
    import ctypes  # late, as the tracer of closes has it

    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
