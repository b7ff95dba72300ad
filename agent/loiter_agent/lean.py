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


def leave_out_compression() -> None:
    """Has shutil not load the formats of archives, 0.3 MB: argparse asks it how wide the terminal is, and no more.

    To be called before a parser is made. shutil runs without, as it does on a Python that was built without them.
    """
    for name in ("bz2", "lzma"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # see above


@contextmanager
def leave_out_unused() -> Iterator[None]:
    """While the rest of the agent is imported: puts stand-ins for modules that libraries import and do not use, 3 MB.

    Those are, of APScheduler, what finds its plugins, and pools of processes: AsyncIOScheduler has an executor of its
    own; of protobuf, messages in pure Python, where it has them in C.
    """
    from google.protobuf.internal import api_implementation  # late: `sample` does without

    def not_found(_: str) -> NoReturn:
        raise ModuleNotFoundError

    stand_ins = [
        _module(
            "importlib.metadata", version=not_found, PackageNotFoundError=ModuleNotFoundError, entry_points=_nothing
        ),
        _module("apscheduler.executors.pool", ThreadPoolExecutor=None),
    ]
    if api_implementation.Type() == "upb":
        stand_ins.append(_module("google.protobuf.internal.python_message"))
    put = [module for module in stand_ins if sys.modules.setdefault(module.__name__, module) is module]
    try:
        yield
    finally:
        for module in put:
            del sys.modules[module.__name__]


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


def _nothing(**_: object) -> tuple[()]:
    return ()


def trim() -> None:
    """Gives memory that is free back to the kernel (malloc_trim(3)), where the C library can: what starting took."""
    import ctypes  # late, as the tracer of closes has it

    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
