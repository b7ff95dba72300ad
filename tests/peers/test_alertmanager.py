"""A real Alertmanager is told of a running fleet: it receives, groups and resolves, and notes no restart.

The tests stand in the order in which things happen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest

from loiter_aggregator.links import app_page, host_page
from support.programs import (
    BIN,
    LEAKLAB,
    ROOT,
    Command,
    agent_command,
    ask,
    free_port,
    loiter,
    run,
    running,
    wait_until,
)
from support.synthetic_fleet import HOSTILE, SILENT, write_past
from support.watched_fleet import MORTAL, synthetic_hosts

# A name of its own: others of the leak lab may run on this host, too.
_LEAK: Final = f"leak_of_{os.getpid()}.py"
_LEAKING: Final = f"""
import runpy, sys
sys.argv[1:] = ["--per-second", "20"]
runpy.run_path({str(LEAKLAB / "programs/forgets_to_close.py")!r}, run_name="__main__")
"""
_API: Final = "order-api.service"
_SHOWN: Final = HOSTILE.replace("\x1b", r"\x1b")
_RULES: Final = """
[settings]
every = "500ms"
[defaults]
enabled = false
[[rule]]
name = "leak"
kind = "close-wait-growth"
above = 100
window = "1m"
for = "2s"
keep_for = "1s"
severity = "critical"
apps = ["LEAK", "order-api.service", "<script>alert(1)</script>*"]
add_labels = { team = "payments" }
[[rule]]
name = "fd-eta"
kind = "fd-eta"
below = "7d"
window = "1m"
for = "2s"
apps = ["order-api.service"]
[[rule]]
name = "host-silent"
kind = "host-silent"
above = "3s"
"""
# The routes of the guide. Told of at once, and a second time only when something has changed.
_ALERTMANAGER: Final = """
route:
  receiver: hook
  group_by: [alertname]
  group_wait: 1s
  group_interval: 1s
  repeat_interval: 1h
  routes:
    - matchers: ['app!=""']
      group_by: [app]
receivers: [{ name: hook, webhook_configs: [{ url: "HOOK", send_resolved: true }] }]
"""


class Hook:
    """What Alertmanager notifies, and what it was notified of."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self.url = ""
        self.notified: list[dict[str, Any]] = []

    def names(self) -> set[str]:
        """Whom it was notified of."""
        labels = (alert["labels"] for one in self.notified for alert in one["alerts"])
        return {one.get("app") or one["host"] for one in labels}

    def of(self, app: str, status: str) -> list[dict[str, Any]]:
        """Notifications of the group of an application."""
        return [one for one in self.notified if (one["groupLabels"].get("app"), one["status"]) == (app, status)]


@contextmanager
def _listening(hook: Hook) -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.notified.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _is_second(alert: Any) -> bool:
    """Whether it is the one of another rule that the same application breaks, too."""
    return bool(alert["labels"]["alertname"] == "fd-eta")


class Scene:
    """An aggregator with rules, a program that leaks, made-up hosts, and an Alertmanager, each started by itself."""

    def __init__(self, folder: Path, alertmanager: str, hook: Hook, stack: ExitStack) -> None:
        """Chooses the ports and writes the files."""
        self.folder, self.hook, self._alertmanager, self._stack = folder, hook, alertmanager, stack
        self.server, self.page = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        self.url = f"http://127.0.0.1:{free_port()}"
        # The other member of the cluster is never there.
        receivers = f'[[alertmanager]]\nurl = "{self.url}"\n[[alertmanager]]\nurl = "http://127.0.0.1:9"\n'
        (folder / "alerts.toml").write_text(_RULES.replace("LEAK", _LEAK) + receivers)
        (folder / "am.yml").write_text(_ALERTMANAGER.replace("HOOK", hook.url))
        (folder / "loiter.toml").write_text(
            f'[web]\nurl = "{self.page}"\n[alerts]\nfile = "{folder / "alerts.toml"}"\n'
        )
        write_past(folder / "store")
        self.start_aggregator()
        (folder / _LEAK).write_text(_LEAKING)
        command: Command = [sys.executable, folder / _LEAK]
        self.leak = stack.enter_context(running(command, folder / "leak.log", {"PYTHONPATH": str(ROOT / "tests")}))
        stack.enter_context(running([*MORTAL, *agent_command(self.server, folder)], folder / "agent.log"))
        stack.enter_context(synthetic_hosts(folder, self.server))

    def start_aggregator(self) -> None:
        """Starts it, for the second time, too."""
        log = self.folder / "aggregator.log"
        log.unlink(missing_ok=True)
        flags = ("--config", self.folder / "loiter.toml", "--data-dir", self.folder / "store")
        where = ("--listen", self.server, "--http", self.page.removeprefix("http://"))
        self.aggregator = self._stack.enter_context(running([*MORTAL, BIN / "loiter", "serve", *flags, *where], log))
        self.aggregator.wait_for_log("store in", 30)

    def start_alertmanager(self) -> None:
        """Starts it."""
        flags = (f"--config.file={self.folder / 'am.yml'}", f"--storage.path={self.folder / 'am'}")
        listen = ("--cluster.listen-address=", f"--web.listen-address={self.url.removeprefix('http://')}")
        self._stack.enter_context(running([*MORTAL, self._alertmanager, *flags, *listen], self.folder / "am.log"))

    def receiver(self) -> Any:
        """What `loiter alerts` says of Alertmanager."""
        return ask(self.server, "alerts")["receivers"][0]

    def firing(self) -> set[str]:
        """Whom the alerts are about that loiter has firing."""
        found = ask(self.server, "alerts", "--state", "firing")["alerts"]
        return {one["app"] or one["hostnames"][0] for one in found}

    def received(self) -> dict[str, dict[str, Any]]:
        """The alerts that Alertmanager has firing, by whom they are about."""
        with urlopen(f"{self.url}/api/v2/alerts", timeout=10) as answer:
            found = json.load(answer)
        return {one["labels"].get("app") or one["labels"]["host"]: one for one in found if not _is_second(one)}


_ALL: Final = {_LEAK, _API, SILENT, HOSTILE}
_RECEIVED: Final = {_LEAK, _API, SILENT, _SHOWN}


@pytest.fixture(scope="module")
def scene(alertmanager: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything but the Alertmanager is there, and something was to be pushed."""
    with ExitStack() as stack:
        hook = stack.enter_context(_listening(Hook()))
        one = Scene(tmp_path_factory.mktemp("alertmanager"), alertmanager, hook, stack)
        wait_until(lambda: one.receiver()["error"], 60, "it is tried")
        yield one


def test_an_alertmanager_that_is_down_is_told_when_it_is_up(scene: Scene) -> None:
    """Till then it is said to be down, where alerts are listed and once in the log."""
    before = scene.receiver()
    assert before["last_success_time"] is None
    assert "connect" in before["error"].lower()
    assert scene.aggregator.logged().count(f"cannot push alerts to {scene.url}") == 1
    scene.start_alertmanager()
    wait_until(lambda: scene.receiver()["error"] is None, 60, "alerts are pushed")
    assert "alerts are pushed to" in scene.aggregator.logged()
    wait_until(lambda: scene.received().keys() >= _RECEIVED, 60, "everything is received")


def test_an_application_on_several_hosts_is_one_alert_and_one_notification(scene: Scene) -> None:
    """With the hosts in it; the labels are those of the rule and of whom it is about."""
    alert = scene.received()[_API]
    assert alert["labels"] == {"alertname": "leak", "app": _API, "severity": "critical", "team": "payments"}
    assert alert["annotations"]["hosts"] == "web-1, web-2"
    assert alert["annotations"]["cause"] == "leak"
    assert alert["annotations"]["summary"].startswith(f"{_API}: CLOSE_WAIT grows by ")
    (told,) = wait_until(lambda: scene.hook.of(_API, "firing"), 20, "a notification")
    assert told["groupLabels"] == {"app": _API}


def test_what_a_deploy_breaks_by_several_rules_is_one_notification(scene: Scene) -> None:
    """It leaks, and it runs out of file descriptors: on whatever hosts it is."""
    (told,) = wait_until(lambda: scene.hook.of(_API, "firing"), 20, "a notification")
    assert sorted(one["labels"]["alertname"] for one in told["alerts"]) == ["fd-eta", "leak"]


def test_links_lead_to_the_page(scene: Scene) -> None:
    """Of the application, and of the host."""
    for about, page in ((_API, app_page(_API)), (SILENT, host_page(SILENT)), (_SHOWN, app_page(HOSTILE))):
        alert = scene.received()[about]
        assert alert["generatorURL"] == alert["annotations"]["link"] == f"{scene.page}{page}"
        with urlopen(alert["generatorURL"], timeout=20) as answer:
            assert answer.status == 200
            assert "text/html" in answer.headers["Content-Type"]


def test_a_hostile_name_can_do_nothing_in_a_terminal(scene: Scene) -> None:
    """Neither to Alertmanager's tool nor to loiter's."""
    shown = run(["amtool", "alert", "query", "-o", "extended", f"--alertmanager.url={scene.url}"]).stdout
    for text in (shown, loiter("alerts", "-o", "wide", server=scene.server).stdout):
        assert _SHOWN in text
        assert "\x1b" not in text


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=("stopped", "killed"))
def test_a_restart_of_the_aggregator_is_not_noticed(scene: Scene, end: signal.Signals) -> None:
    """The alerts are the same, since when they were; nobody is notified of anything."""
    wait_until(lambda: scene.hook.names() >= _RECEIVED, 20, "the first notifications")
    before, notified = scene.received(), len(scene.hook.notified)
    scene.aggregator.stop(end)
    scene.start_aggregator()
    wait_until(lambda: scene.receiver()["last_success_time"] is not None, 30, "alerts are pushed again")
    wait_until(lambda: scene.firing() >= _ALL, 30, "everything fires again")
    after = scene.received()
    for about, alert in before.items():
        assert after[about]["fingerprint"] == alert["fingerprint"]
        assert after[about]["startsAt"] == alert["startsAt"]
        assert after[about]["updatedAt"] > alert["updatedAt"]
    assert len(after) == len(before)
    assert scene.hook.notified[notified:] == []


def test_what_is_mended_is_resolved_and_nothing_else(scene: Scene) -> None:
    """The program has ended, and its host still reports."""
    assert not any(one["status"] == "resolved" for one in scene.hook.notified)
    scene.leak.stop()
    wait_until(lambda: scene.hook.of(_LEAK, "resolved"), 30, "a notification that it is resolved")
    assert _LEAK not in scene.received()
    assert scene.received().keys() >= {_API, SILENT, _SHOWN}
    assert [one["groupLabels"]["app"] for one in scene.hook.notified if one["status"] == "resolved"] == [_LEAK]
    listed = ask(scene.server, "alerts", "--state", "resolved")["alerts"]
    assert [one["app"] for one in listed] == [_LEAK]
