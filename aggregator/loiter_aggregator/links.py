"""The addresses of the web page's parts: what is shown stands in the address, so that a link can be passed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

# What the parameters of a ranking's address are called, as the flags of `loiter top`.
Parameters = Mapping[str, str | int | None]


def fleet_page(**parameters: str | int | None) -> str:
    """The page of the whole fleet."""
    return _page("/", parameters)


def top_page(what: str, **parameters: str | int | None) -> str:
    """The ranking of `hosts`, `processes`, `apps` or `groups`, by parameters called as the flags of `loiter top`."""
    return _page(f"/top/{what}", parameters)


def host_page(host: str, **parameters: str | int | None) -> str:
    """The page of a host, by its name or its host id."""
    return _page("/host", {"name": host, **parameters})


def process_page(host: str, pid: int, **parameters: str | int | None) -> str:
    """The page of a process."""
    return _page("/process", {"host": host, "pid": pid, **parameters})


def app_page(app: str, **parameters: str | int | None) -> str:
    """The page of an application over all the hosts it is on."""
    return _page("/app", {"name": app, **parameters})


@dataclass(frozen=True, slots=True)
class Links:
    """Makes whole addresses for readers elsewhere: in e-mails and alerts.

    `base` is where the page is reached from there, such as https://loiter.example.net; empty where that is not set.
    """

    base: str = ""

    def to(self, page: str) -> str:
        """The whole address of a page; empty where it is not known where the page is reached."""
        return self.base.rstrip("/") + page if self.base else ""


def _page(path: str, parameters: Parameters) -> str:
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
