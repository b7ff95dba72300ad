"""What the agent keeps out of its memory."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of

from loiter.version import version
from loiter_agent.lean import trim
from support.programs import run

LOADED = """
import sys
from loiter_agent.lean import leave_out_openssl, leave_out_unused
leave_out_openssl()
with leave_out_unused():
    import loiter_agent.service
print(*(name for name, module in sys.modules.items() if module is not None))
"""


def test_what_is_not_used_is_not_loaded() -> None:
    """OpenSSL, what reads the metadata of packages, and what starts processes: megabytes on every host."""
    done = run([sys.executable, "-c", LOADED])
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"loiter_agent.service", "apscheduler.schedulers.asyncio", "grpc", "asyncio"} <= loaded
    assert not loaded & {"ssl", "_ssl", "_hashlib", "email", "zipfile", "importlib.metadata", "multiprocessing"}
    assert not loaded & {"google.protobuf.internal.python_message", "google.protobuf.internal.encoder"}


def test_the_command_line_is_read_without_the_formats_of_archives() -> None:
    """They come with what tells the width of the terminal."""
    code = """
import sys
from loiter_agent.__main__ import main
try:
    main(["--version"])
finally:
    print(*(name for name, module in sys.modules.items() if module is not None))
"""
    loaded = set(run([sys.executable, "-c", code]).stdout.split())
    assert {"argparse", "shutil"} <= loaded
    assert not loaded & {"bz2", "_bz2", "lzma", "_lzma"}


def test_the_stand_ins_are_gone_afterwards() -> None:
    """Whoever wants the real modules later gets them."""
    code = """
from importlib.metadata import version
from apscheduler.executors.pool import ThreadPoolExecutor
from google.protobuf.internal.python_message import GeneratedProtocolMessageType
print(version("grpcio"), ThreadPoolExecutor.__mro__, GeneratedProtocolMessageType)
"""
    done = run([sys.executable, "-c", LOADED + code])
    assert done.returncode == 0, done.stderr


def test_where_protobuf_has_no_messages_in_c_those_in_python_are_used() -> None:
    """They are slower, and there."""
    python = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = run([sys.executable, "-c", LOADED], python)
    assert done.returncode == 0, done.stderr
    assert "google.protobuf.internal.python_message" in done.stdout.split()


def test_what_is_there_already_is_left_alone() -> None:
    """As in a process that has more to do than to run the agent."""
    code = "import importlib.metadata as m, sys\n" + LOADED + "assert sys.modules['importlib.metadata'] is m\n"
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_distribution() -> None:
    """It is written down in one place, and read from there when the distribution is built."""
    assert version() == version_of("loiter")


def test_free_memory_goes_back_to_the_kernel() -> None:
    """Where the C library can do that; it is no failure where it can not."""
    code = """
import os
from loiter_agent.lean import trim
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
blocks = [bytearray(1_000) for _ in range(30_000)]
keep = blocks[-1]
del blocks
before = resident()
trim()
print(before - resident())
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000_000
    trim()
