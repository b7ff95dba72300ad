"""Writes what the reference says of the code, from the code: `make docs`. With `--check`, it only says what is stale.

A Markdown file holds blocks between `<!-- generated: NAME -->` and `<!-- end -->`; what is around them is written by
hand, and stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from generator.blocks import Blocks, fill
from generator.cli import agent_commands, loiter_commands
from generator.documents import DOCUMENTS
from generator.limits import limits
from generator.protocol import enums, messages, services
from generator.settings import agent_settings, aggregator_settings, alert_file, report_file
from generator.words import causes, columns, degradations, losses, measures, owners, samplers

DOCS: Final = Path(__file__).parent

BLOCKS: Final[Blocks] = {
    "agent-commands": agent_commands,
    "loiter-commands": loiter_commands,
    "agent-settings": agent_settings,
    "aggregator-settings": aggregator_settings,
    "alert-file": alert_file,
    "report-file": report_file,
    "services": services,
    "messages": messages,
    "enums": enums,
    "limits": limits,
    "measures": measures,
    "columns": columns,
    "causes": causes,
    "owners": owners,
    "degradations": degradations,
    "losses": losses,
    "samplers": samplers,
    **{name: document.render for name, document in DOCUMENTS.items()},
}


def main() -> None:
    """Exits with 1 where `--check` finds a file that is not current."""
    parser = argparse.ArgumentParser(description="Generates the reference from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing, and fail where something would change")
    check = parser.parse_args().check
    stale = 0
    for file in sorted(DOCS.rglob("*.md")):
        text = file.read_text()
        current = fill(text, BLOCKS)
        if current == text:
            continue
        if check:
            print(f"{file.relative_to(DOCS.parent)} is not current: run 'make docs'", file=sys.stderr)
            stale += 1
        else:
            file.write_text(current)
            print(f"wrote {file.relative_to(DOCS.parent)}")
    if stale:
        sys.exit(1)
    if check:
        print("the reference is current")


if __name__ == "__main__":
    main()
