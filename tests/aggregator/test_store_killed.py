"""A writer that is killed at any moment leaves a store with all that it said was stored, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.aggregators import host_key, open_store
from support.reports import EPOCH

# Writes one batch after the other, and says of each that it is stored. With a checkpoint after every commit, it is as
# likely to be killed within one as within a commit.
WRITER = """
import sys
from pathlib import Path
from loiter_aggregator.store import database
from support.aggregators import batch_of, host_key, open_store, put_host, record
from support.reports import NOW, hello, process, report, sample

if sys.argv[2] == "checkpoints":
    database.CHECKPOINT_BYTES = 1
store = open_store(Path(sys.argv[1]))
put_host(store, record(hello()), NOW)
sequence = max(store.high_water().values(), default=0)
while True:
    sequence += 1
    processes = [process(pid, 1, name=f"p{sequence}.{pid}") for pid in range(1, 51)]
    store.write(batch_of(report(sequence=sequence, taken=sample(NOW + sequence, sequence, processes=processes))))
    print(sequence, flush=True)
"""


@pytest.mark.parametrize("how", ["commits", "checkpoints"])
def test_a_killed_writer_loses_nothing_that_it_said_was_stored(tmp_path: Path, how: str) -> None:
    """Samples, their processes and the mark are those of whole batches, whenever it was killed."""
    marked = 0
    for commits in (1, 2, 5, 9, 14):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), how],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(commits)][-1]
            writer.send_signal(signal.SIGKILL)
            # What it said before the signal got to it.
            said = max([said, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        assert said >= marked + commits

        store = open_store(tmp_path)
        marked = store.high_water()[host_key("web-1"), EPOCH]
        assert said <= marked <= said + 1
        assert store.read("SELECT sequence FROM host_sample ORDER BY sequence") == [
            (sequence,) for sequence in range(1, marked + 1)
        ]
        assert store.read("SELECT count(*), count(DISTINCT identity_key) FROM process_sample") == [(50 * marked,) * 2]
        assert store.read("SELECT count(*) FROM identity") == [(50 * marked,)]
        store.close()
