"""Labels from a file and a command, by a real agent: how they reach the aggregator, and how they change."""

from __future__ import annotations

import signal
from pathlib import Path

from support.programs import agent_command, aggregator, ask, run, running, wait_until

SECONDS = 30


def test_labels_of_all_sources_are_reported_and_change_with_them(tmp_path: Path) -> None:
    """A command that fails keeps nothing from being reported; once it answers, its labels are there, too."""
    file, metadata = tmp_path / "labels", tmp_path / "metadata"
    file.write_text("# of this machine\nrack=7\nrole=file\n")
    with aggregator(tmp_path) as one:
        command = agent_command(
            one.server, tmp_path, "--hostname", "web-1", "--label", "role=web", "--labels-file", str(file)
        )
        with running(command, tmp_path / "agent.log", {"LOITER_LABELS_COMMAND": f"cat {metadata}"}) as agent:

            def labels() -> dict[str, str]:
                rows = ask(one.server, "top", "hosts")
                return dict(rows[0]["labels"]) if rows else {}

            wait_until(lambda: labels() == {"role": "web", "rack": "7"}, SECONDS, "the labels of settings and file")
            said = f"labels_command (cat): its exit status is 1: cat: {metadata}: No such file or directory; this host"
            assert agent.logged().count(said) == 1
            metadata.write_text("zone=a\nrack=0\n")
            file.write_text("rack=8\n")
            agent.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: labels() == {"role": "web", "rack": "8", "zone": "a"}, SECONDS, "the labels of the command"
            )
            groups = ask(one.server, "top", "groups", "--group-by", "zone")
            assert [(row["group"], row["hosts"]) for row in groups] == [("a", 1)]
            file.write_text("rack\n")
            agent.process.send_signal(signal.SIGHUP)
            agent.wait_for_log(f"settings not reloaded, the old ones stay in force: labels_file: {file}:1: no label")
            assert agent.stop() == 0
            assert "Traceback" not in agent.logged()


def test_a_file_of_labels_that_can_not_be_used_is_wrong_usage(tmp_path: Path) -> None:
    """By its line, as a setting would be."""
    file = tmp_path / "labels"
    file.write_text("role=web\n=\n")
    done = run(agent_command("127.0.0.1:1", tmp_path, "--labels-file", str(file)))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"loiter-agent: labels_file: {file}:2: no label; write a label a line, such as role=web: a name of letters, "
        "digits, '_', '.' and '-', and a printable text of at most 255 characters\n"
    )
