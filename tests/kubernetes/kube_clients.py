"""kubectl of two ages and the Python client, unchanged and with a credential that is worth nothing, through ``protocol: http``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kubernetes.cluster import WRONG_TOKEN, Cluster
from tests.stage import Service, Settings
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

_POLICY = """\
version: 1
rules:
  - id: the-api
    what: {http: {methods: [GET, POST, PUT, PATCH, DELETE], paths: ["/api", "/api/**", "/apis", "/apis/**", "/openapi/**", "/version"]}}
    then: allow
  - id: no-namespace-deletion
    what: {http: {methods: [DELETE], paths: ["/api/v1/namespaces/*"]}}
    then: deny
    reason: namespaces stay
    hint: ask the platform team
"""
_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {colour: %s}\n"
_OURS = "system:serviceaccount:hostagent:hostagent"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def settings(cluster: Cluster) -> Settings:
    """One target."""
    return Settings(
        policies={"api.yaml": _POLICY}, targets={"kube.yaml": cluster.target()}, workloads={"support-bot.yaml": cluster.workload()}
    )


@pytest.fixture(params=["kubectl", "kubectl_debian"])
def kubectl(request: pytest.FixtureRequest, cluster: Cluster, service: Service) -> Kubectl:
    """Run kubectl as the workload."""
    program: Path = getattr(cluster.programs, request.param)

    def launch(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return service.launch(str(program), "--kubeconfig", str(cluster.kubeconfig), *words, **options)

    return launch


def _done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_workloads_own_credential_is_worth_nothing(cluster: Cluster) -> None:
    said = cluster.kubectl("--token", WRONG_TOKEN, "--kubeconfig", str(cluster.kubeconfig), "get", "namespaces", check=False)
    assert "Unauthorized" in said


def test_kubectl_reads_and_the_server_sees_our_account(cluster: Cluster, kubectl: Kubectl) -> None:
    before = len(cluster.audited())
    assert "namespace/default" in _done(kubectl("get", "namespaces", "-o", "name"))
    assert "default" in _done(kubectl("get", "namespaces"))
    users = {event["user"]["username"] for event in cluster.audited()[before:] if str(event["userAgent"]).startswith("kubectl")}  # type: ignore[index]
    assert users == {_OURS}


def test_kubectl_applies_changes_and_deletes(cluster: Cluster, kubectl: Kubectl) -> None:
    assert "created" in _done(kubectl("apply", "-f", "-", input=_MAP % ("painted", "red")))
    assert "configured" in _done(kubectl("apply", "-f", "-", input=_MAP % ("painted", "blue")))
    assert _done(kubectl("get", "configmap", "painted", "-o", "jsonpath={.data.colour}")) == "blue"
    assert cluster.kubectl("get", "configmap", "painted", "-o", "jsonpath={.data.colour}") == "blue"
    assert "deleted" in _done(kubectl("delete", "configmap", "painted"))
    assert "NotFound" in kubectl("get", "configmap", "painted").stderr


def test_what_is_denied_fails_and_the_server_is_never_asked(cluster: Cluster, kubectl: Kubectl) -> None:
    before = len(cluster.audited())
    denied = kubectl("delete", "namespace", "default", "--wait=false")
    # A problem document is no Status: what reason it gives, kubectl does not show.
    assert (denied.returncode, "Forbidden" in denied.stderr) == (1, True), denied.stderr
    assert not [event for event in cluster.audited()[before:] if event["verb"] == "delete"]


def test_a_watch_shows_what_happens_while_it_happens(cluster: Cluster, service: Service) -> None:
    words = ["run", "--workload", "support-bot", "--no-tty", "--", str(cluster.programs.kubectl), "--kubeconfig", str(cluster.kubeconfig)]
    command = [*service.command, *words, "get", "configmaps", "-n", "default", "--watch-only", "-o", "name"]
    before = len(cluster.audited())
    with subprocess.Popen(command, env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        wait_for(lambda: any("watch" in str(event["requestURI"]) for event in cluster.audited()[before:]), "the watch", 30)
        for name in ("seen-first", "seen-second"):
            cluster.kubectl("create", "configmap", name)
            assert watching.stdout.readline() == f"configmap/{name}\n"
        watching.terminate()
        watching.communicate(timeout=20)
    cluster.kubectl("delete", "configmap", "seen-first", "seen-second")


_PYTHON = """
import sys
from kubernetes import client, config, watch
config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()
print("default" in [each.metadata.name for each in core.list_namespace().items])
try:
    core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="another"), data={"a": "1"}))
except client.ApiException as error:
    print(error.status, "not fully understood" in error.body)
for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=20):
    if event["object"].metadata.name == "snake":
        print(event["type"], event["object"].data)
        break
print(core.patch_namespaced_config_map("snake", "default", {"data": {"a": "2"}}).data)
print(core.delete_namespaced_config_map("snake", "default")["status"])
try:
    core.delete_namespace("default")
except client.ApiException as error:
    print(error.status, "namespaces stay" in error.body)
"""


def test_the_python_client_works_unchanged(cluster: Cluster, service: Service) -> None:
    cluster.kubectl("create", "configmap", "snake", "--from-literal=a=1")
    done = service.launch(str(cluster.programs.python), "-c", _PYTHON, str(cluster.kubeconfig))
    # It posts without a Content-Type. What is only HTTP must take that for a form, which could be anything; Kubernetes has no forms.
    assert done.stdout.splitlines() == ["True", "403 True", "ADDED {'a': '1'}", "{'a': '2'}", "Success", "403 True"], done.stderr


def test_every_request_is_a_row_without_a_credential(cluster: Cluster, service: Service) -> None:
    itself = "text like 'DELETE %/namespaces/default%' and text not like '%/default/%'"
    rows = service.wait_sql(f"select distinct verb, decision, outcome, tag from statements where {itself}")
    assert rows == [{"verb": "DELETE", "decision": "deny", "outcome": "denied", "tag": "403"}]
    secret = cluster.token_file.read_text(encoding="utf-8").strip()
    assert json.dumps(service.sql("select * from statements where text like '%/api/v1/namespaces%'")).find(secret) == -1
