"""What is in deploy/prometheus and deploy/grafana, read for tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import yaml

from support.programs import ROOT

FOLDER: Final = ROOT / "deploy" / "prometheus"
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "loiter.json"

Document = dict[str, Any]


def parsed(file: Path) -> Any:
    """A file of YAML."""
    return yaml.safe_load(file.read_text())


def rules(name: str) -> list[Document]:
    """All rules of one of the files."""
    return [rule for group in parsed(FOLDER / "loiter" / name)["groups"] for rule in group["rules"]]


def dashboard() -> Document:
    """The dashboard."""
    return cast("Document", json.loads(DASHBOARD.read_text()))


def queries() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard with the title of its panel, its variables filled in as Grafana does."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in (("$instance", ".*"), ("$job", ".*"), ("$top", "10"), ("$__rate_interval", "1m")):
                query = query.replace(variable, value)
            yield panel["title"], query


def metrics_in(query: str) -> set[str]:
    """The names of our metrics in a query."""
    return set(re.findall(r"\b(?:\w+:)?(?:loiter|process)_\w+(?::\w+)?", query))
