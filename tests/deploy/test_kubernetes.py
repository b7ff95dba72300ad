"""The manifests of Kubernetes: valid by its schemas, in agreement with each other and with the programs they start."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import kubernetes_validate
import pytest
import yaml

from loiter.limits import DEFAULT_HTTP, DEFAULT_SERVER
from loiter.settings import entries, load
from loiter.version import version
from loiter_agent.config import AgentSettings
from loiter_agent.status import timestamp
from loiter_aggregator.access.requirements import token_file
from loiter_aggregator.config import AggregatorSettings
from loiter_aggregator.web.health import PATHS as HEALTH_PATHS
from support.programs import ROOT, run
from support.statuses import STATUS

FOLDER: Final = ROOT / "deploy" / "kubernetes"
# The first release that knows securityContext.appArmorProfile, and the newest that there are schemas of.
RELEASES: Final = ("1.30", kubernetes_validate.latest_version())
PORT: Final = int(DEFAULT_SERVER.rpartition(":")[2])
HTTP_PORT: Final = int(DEFAULT_HTTP.rpartition(":")[2])

Manifest = dict[str, Any]


def documents(file: Path) -> list[Manifest]:
    """The manifests in a file."""
    return [cast("Manifest", one) for one in yaml.safe_load_all(file.read_text())]


KUSTOMIZATION: Final = documents(FOLDER / "kustomization.yaml")[0]
MANIFESTS: Final = {
    f"{one['kind']}/{one['metadata']['name']}": one
    for name in KUSTOMIZATION["resources"]
    for one in documents(FOLDER / name)
}
AGENT: Final = MANIFESTS["DaemonSet/loiter-agent"]
AGGREGATOR: Final = MANIFESTS["StatefulSet/loiter-aggregator"]
WORKLOADS: Final = pytest.mark.parametrize("workload", [AGENT, AGGREGATOR], ids=["agent", "aggregator"])


def pod(workload: Manifest) -> Manifest:
    """What the pods of a workload are made of."""
    return cast("Manifest", workload["spec"]["template"]["spec"])


def container(workload: Manifest) -> Manifest:
    """The one container of its pods."""
    (only,) = pod(workload)["containers"]
    return cast("Manifest", only)


def environment(workload: Manifest) -> dict[str, str]:
    """The variables of its container; where the cluster fills one in, an example."""
    return {one["name"]: one.get("value", "node-1") for one in container(workload)["env"]}


def mounted(workload: Manifest) -> dict[str, Manifest]:
    """Where in its container which volume is."""
    claims = workload["spec"].get("volumeClaimTemplates", [])
    volumes = {one["name"]: one for one in pod(workload)["volumes"]}
    volumes |= {one["metadata"]["name"]: one for one in claims}
    return {one["mountPath"]: volumes[one["name"]] for one in container(workload)["volumeMounts"]}


def of_loiter(variables: Mapping[str, str], settings: type[Any]) -> dict[str, str]:
    """The variables that are settings; each of ours must be one."""
    known = {entry.environment for entry in entries(settings)}
    ours = {name: value for name, value in variables.items() if name.startswith("LOITER_")}
    assert set(ours) <= known
    return ours


def secret_files(name: str) -> set[str]:
    """The names of the files in a secret of the kustomization."""
    (one,) = [one for one in KUSTOMIZATION["secretGenerator"] if one["name"] == name]
    return {Path(file).name for file in one["files"]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid(name: str, release: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], release, strict=True)


def misspelt_capabilities(manifest: Manifest) -> None:
    container(manifest)["securityContext"]["capabilites"] = {}


def unknown_mode(manifest: Manifest) -> None:
    manifest["spec"]["updateStrategy"]["type"] = 7


def without_selector(manifest: Manifest) -> None:
    del manifest["spec"]["selector"]


@pytest.mark.parametrize("spoil", [misspelt_capabilities, unknown_mode, without_selector])
def test_a_slip_in_a_manifest_is_found(spoil: Callable[[Manifest], None]) -> None:
    """A field that Kubernetes would ignore, a value of the wrong type, and one that is missing."""
    manifest = copy.deepcopy(AGENT)
    spoil(manifest)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, RELEASES[-1], strict=True)


def test_every_file_is_part_of_the_kustomization() -> None:
    assert {file.name for file in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


@WORKLOADS
def test_a_workload_selects_its_own_pods(workload: Manifest) -> None:
    wanted = workload["spec"]["selector"]["matchLabels"].items()
    assert wanted <= workload["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("where", ["Service/loiter-aggregator", "NetworkPolicy/loiter-aggregator"])
def test_the_aggregator_is_what_its_service_and_policy_select(where: str) -> None:
    spec = MANIFESTS[where]["spec"]
    selected = spec["selector"] if "selector" in spec else spec["podSelector"]["matchLabels"]
    labels = [pod["spec"]["template"]["metadata"]["labels"].items() for pod in (AGGREGATOR, AGENT)]
    assert [selected.items() <= one for one in labels] == [True, False]


def test_agents_find_the_aggregator_at_its_service() -> None:
    service = MANIFESTS["Service/loiter-aggregator"]
    (port,) = [one for one in service["spec"]["ports"] if one["name"] == "grpc"]
    settings = load(AgentSettings, None, of_loiter(environment(AGENT), AgentSettings), {})
    assert settings.server == (f"{service['metadata']['name']}.{KUSTOMIZATION['namespace']}.svc:{port['port']}",)
    assert AGGREGATOR["spec"]["serviceName"] == service["metadata"]["name"]


@pytest.mark.parametrize(
    ("name", "port", "setting"), [("grpc", PORT, "LOITER_LISTEN"), ("https", HTTP_PORT, "LOITER_HTTP")]
)
def test_a_port_is_the_same_everywhere(name: str, port: int, setting: str) -> None:
    """Of the service, the container, the policy and what the aggregator listens on."""

    def called(ports: list[Manifest], key: str) -> Manifest:
        (one,) = [one for one in ports if one[key] == name]
        return one

    of_service = called(MANIFESTS["Service/loiter-aggregator"]["spec"]["ports"], "name")
    assert called(MANIFESTS["NetworkPolicy/loiter-aggregator"]["spec"]["ingress"][0]["ports"], "port")
    assert called(container(AGGREGATOR)["ports"], "name")["containerPort"] == of_service["port"] == port
    assert of_service["targetPort"] == name
    assert environment(AGGREGATOR)[setting] == f"0.0.0.0:{port}"


def test_the_probes_ask_what_the_aggregator_answers() -> None:
    """By TLS, as its secret has a certificate."""
    for probe in ("startupProbe", "livenessProbe"):
        assert container(AGGREGATOR)[probe]["exec"]["command"] == ["loiter-health", f"127.0.0.1:{PORT}"]
    asked = container(AGGREGATOR)["readinessProbe"]["httpGet"]
    assert asked["path"] in HEALTH_PATHS
    assert (asked["port"], asked["scheme"]) == ("https", "HTTPS")


def test_the_agent_keeps_its_spool_on_the_node() -> None:
    settings = load(AgentSettings, None, of_loiter(environment(AGENT), AgentSettings), {})
    assert mounted(AGENT)[str(settings.state_dir)]["hostPath"]["path"] == str(settings.state_dir)
    assert settings.hostname == "node-1"
    assert mounted(AGENT)["/etc/machine-id"]["hostPath"] == {"path": "/etc/machine-id", "type": "File"}


def test_the_aggregator_keeps_its_store_in_a_claim() -> None:
    settings = load(AggregatorSettings, None, of_loiter(environment(AGGREGATOR), AggregatorSettings), {})
    assert "accessModes" in mounted(AGGREGATOR)[str(settings.data_dir)]["spec"]
    assert AGGREGATOR["spec"]["replicas"] == 1
    limit = container(AGGREGATOR)["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) << 30 > int(settings.store.memory_limit.removesuffix("GB")) * 1_000_000_000


@pytest.mark.parametrize(
    ("workload", "settings", "needed"),
    [
        (AGENT, AgentSettings, {"ca.pem", "token"}),
        (AGGREGATOR, AggregatorSettings, {"certificate.pem", "key.pem"}),
    ],
    ids=["agent", "aggregator"],
)
def test_credentials_are_where_the_program_looks(workload: Manifest, settings: type[Any], needed: set[str]) -> None:
    folder = environment(workload)["CREDENTIALS_DIRECTORY"]
    secret = mounted(workload)[folder]["secret"]["secretName"]
    assert needed <= secret_files(secret) & {entry.credential for entry in entries(settings)}


def test_the_tokens_come_with_the_secret() -> None:
    settings = load(AggregatorSettings, None, of_loiter(environment(AGGREGATOR), AggregatorSettings), {})
    file = token_file(settings)
    assert file.name in secret_files(mounted(AGGREGATOR)[str(file.parent)]["secret"]["secretName"])


def test_the_probes_of_the_agent_read_what_it_writes() -> None:
    """Its status file, where RUNTIME_DIRECTORY says."""
    file = f"{environment(AGENT)['RUNTIME_DIRECTORY']}/status.json"
    for probe in ("livenessProbe", "readinessProbe"):
        assert file in " ".join(container(AGENT)[probe]["exec"]["command"])
    assert "emptyDir" in mounted(AGENT)[environment(AGENT)["RUNTIME_DIRECTORY"]]


@pytest.mark.parametrize(
    ("seconds_ago", "alive"),
    [(0, True), (280, True), (400, False), (None, False)],
    ids=["now", "late", "long", "never"],
)
def test_the_agent_is_alive_as_long_as_its_ticks_are_completed(
    tmp_path: Path, seconds_ago: int | None, alive: bool
) -> None:
    """Whenever the file was written last, as it is for every try to connect."""
    at = None if seconds_ago is None else timestamp(time.time() - seconds_ago)
    replace(STATUS, last_tick_at=at).write(tmp_path / "status.json")
    folder = environment(AGENT)["RUNTIME_DIRECTORY"]
    command = [word.replace(folder, str(tmp_path)) for word in container(AGENT)["livenessProbe"]["exec"]["command"]]
    assert (run(command).returncode == 0) is alive


def test_the_agent_may_do_two_things_and_no_other() -> None:
    security = container(AGENT)["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["SYS_PTRACE", "DAC_READ_SEARCH"]}
    assert not security["allowPrivilegeEscalation"]
    assert security["readOnlyRootFilesystem"]


def test_the_aggregator_may_do_nothing() -> None:
    security = pod(AGGREGATOR)["securityContext"] | container(AGGREGATOR)["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] != 0
    assert security["capabilities"] == {"drop": ["ALL"]}


@WORKLOADS
def test_the_image_is_that_of_this_release(workload: Manifest) -> None:
    name, _, tag = container(workload)["image"].rpartition(":")
    (image,) = [one for one in KUSTOMIZATION["images"] if one["name"] == name]
    assert tag == image["newTag"] == version()


@WORKLOADS
def test_a_pod_has_no_rights_in_the_cluster(workload: Manifest) -> None:
    assert pod(workload)["automountServiceAccountToken"] is False


def volumes_of(manifest: Manifest) -> Iterator[str]:
    """The names of its volumes."""
    yield from (one["name"] for one in pod(manifest)["volumes"])


@WORKLOADS
def test_every_volume_is_used(workload: Manifest) -> None:
    used = {one["name"] for one in container(workload)["volumeMounts"]}
    assert set(volumes_of(workload)) <= used


def test_the_priority_of_the_agent_is_defined() -> None:
    assert f"PriorityClass/{pod(AGENT)['priorityClassName']}" in MANIFESTS
