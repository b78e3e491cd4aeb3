"""``protocol: kubernetes`` between real clients and a real API server, whose audit log says what it took each request for."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster
from tests.stage import Service, Settings
from tests.stage.world import wait_for

pytestmark = pytest.mark.e2e

_POLICY = """\
version: 1
rules:
  - id: everything-but
    what: {kubernetes: {verbs: ["*"], resources: ["*"]}}
    then: allow
  - id: discovery
    what: {kubernetes: {verbs: [get], paths: ["/**"]}}
    then: allow
  - id: secrets-masked
    then: mask
    mask: {kubernetes: secrets}
  - id: no-namespace-deletion
    what: {kubernetes: {verbs: [delete, deletecollection], resources: namespaces}}
    then: deny
    reason: namespaces stay
    hint: ask the platform team
  - id: no-exec-in-prod
    what: {kubernetes: {resources: [pods/exec], namespaces: prod}}
    then: deny
    reason: nobody runs programs in prod
  - id: deletion-needs-a-human
    what: {kubernetes: {verbs: delete, resources: configmaps, names: "held-*"}}
    then: hold
    approvers: hostagent-approvers
    timeout: 60
  - id: exec-needs-a-human
    what: {kubernetes: {resources: pods/exec, names: "held-*"}}
    then: hold
    approvers: hostagent-approvers
    timeout: 60
"""
_WORD = "hunter2-is-the-password"
_CODED = base64.b64encode(_WORD.encode()).decode()
_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {colour: %s}\n"
_SECRET = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: %s, namespace: default}}\nstringData: {{p: {_WORD}}}\n"
_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {hostNetwork: %s, containers: [{name: c, image: i}]}}
"""
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def settings(cluster: Cluster) -> Settings:
    """One target."""
    targets = {"kube.yaml": cluster.target("kubernetes")}
    return Settings(policies={"api.yaml": _POLICY}, targets=targets, workloads={"support-bot.yaml": cluster.workload()})


@pytest.fixture(params=["kubectl", "kubectl_debian"])
def kubectl(request: pytest.FixtureRequest, cluster: Cluster, service: Service) -> Kubectl:
    """Run kubectl as the workload."""
    return _kubectl(getattr(cluster.programs, request.param), cluster, service)


def _kubectl(program: Path, cluster: Cluster, service: Service) -> Kubectl:
    def launch(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return service.launch(str(program), "--kubeconfig", str(cluster.kubeconfig), *words, **options)

    return launch


def _done(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_kubectl_reads_applies_changes_and_deletes(cluster: Cluster, kubectl: Kubectl) -> None:
    assert "default" in _done(kubectl("get", "namespaces"))
    assert "created" in _done(kubectl("apply", "-f", "-", input=_MAP % ("painted", "red")))
    assert "configured" in _done(kubectl("apply", "-f", "-", input=_MAP % ("painted", "blue")))
    assert "serverside-applied" in _done(kubectl("apply", "--server-side", "-f", "-", input=_MAP % ("sided", "red")))
    assert "labeled" in _done(kubectl("label", "configmap", "painted", "x=y"))
    assert cluster.kubectl("get", "configmap", "painted", "-o", "jsonpath={.data.colour}{.metadata.labels.x}") == "bluey"
    assert "deleted" in _done(kubectl("delete", "configmap", "painted", "sided"))
    assert "NotFound" in kubectl("get", "configmap", "painted").stderr


def test_a_denial_is_read_by_people_and_the_server_is_never_asked(cluster: Cluster, kubectl: Kubectl) -> None:
    before = len(cluster.audited())
    denied = kubectl("delete", "namespace", "default", "--wait=false")
    assert (denied.returncode, "denied by rule no-namespace-deletion: namespaces stay (ask the platform team)" in denied.stderr) == (1, True), denied.stderr
    assert not [event for event in cluster.audited()[before:] if event["verb"] == "delete"]


def test_secrets_are_masked_in_every_form_and_apply_still_changes_them(cluster: Cluster, kubectl: Kubectl) -> None:
    _done(kubectl("apply", "-f", "-", input=_SECRET % "db"))
    forms = [["get", "secret", "db", "-o", form] for form in ("yaml", "json", "wide", "jsonpath={.data}", "custom-columns=:.data")]
    forms += [["get", "secrets", "-o", "yaml"], ["describe", "secret", "db"], ["get", "secrets,configmaps", "-A", "-o", "json"]]
    forms += [["annotate", "secret", "db", "a=b", "--overwrite", "-o", "yaml"], ["get", "--raw", "/api/v1/namespaces/default/secrets/db"]]
    shown = [_done(kubectl(*words)) for words in forms]
    assert [each for each in shown if _WORD in each or _CODED in each] == []
    assert base64.b64encode(b"[masked]").decode() in shown[0]
    assert "configured" in _done(kubectl("apply", "-f", "-", input=(_SECRET % "db").replace(_WORD, "another")))
    assert cluster.kubectl("get", "secret", "db", "-o", "jsonpath={.data.p}") == base64.b64encode(b"another").decode()
    destroyed = kubectl("replace", "-f", "-", input=_done(kubectl("get", "secret", "db", "-o", "yaml")))
    assert (destroyed.returncode, "overwrite the value itself" in destroyed.stderr) == (1, True), destroyed.stderr
    _done(kubectl("delete", "secret", "db"))


def test_a_watch_of_secrets_shows_each_masked_while_it_happens(cluster: Cluster, service: Service) -> None:
    words = ["run", "--workload", "support-bot", "--no-tty", "--", str(cluster.programs.kubectl), "--kubeconfig", str(cluster.kubeconfig)]
    command = [*service.command, *words, "get", "secrets", "-n", "default", "--watch-only", "-o", "jsonpath={.metadata.name} {.data.p}{\"\\n\"}"]
    before = len(cluster.audited())
    with subprocess.Popen(command, env=service.environment, cwd="/", stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        wait_for(lambda: any("watch" in str(event["requestURI"]) for event in cluster.audited()[before:]), "the watch", 30)
        for name in ("seen-first", "seen-second"):
            cluster.kubectl("create", "secret", "generic", name, f"--from-literal=p={_WORD}")
            assert watching.stdout.readline() == f"{name} {base64.b64encode(b'[masked]').decode()}\n"
        watching.terminate()
        watching.communicate(timeout=20)
    cluster.kubectl("delete", "secret", "seen-first", "seen-second")


def test_pods_that_reach_out_are_not_permitted_by_verbs_alone(cluster: Cluster, kubectl: Kubectl) -> None:
    refused = kubectl("apply", "-f", "-", input=_DEPLOYMENT % "true")
    assert (refused.returncode, "host" in refused.stderr) == (1, True), refused.stderr
    assert "created" in _done(kubectl("apply", "-f", "-", input=_DEPLOYMENT % "false"))
    assert "scaled" in _done(kubectl("scale", "deployment", "web", "--replicas=2"))
    assert "restarted" in _done(kubectl("rollout", "restart", "deployment", "web"))
    # What a patch makes of the object is asked of the server, in a dry run.
    assert "updated" in _done(kubectl("set", "image", "deployment/web", "c=other"))
    assert "configured" in _done(kubectl("apply", "-f", "-", input=(_DEPLOYMENT % "false").replace("image: i", "image: third")))
    patch = '{"spec":{"template":{"spec":{"hostNetwork":true}}}}'
    changed = [kubectl("patch", "deployment", "web", "--type", kind, "-p", patch) for kind in ("merge", "strategic")]
    changed.append(kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=_DEPLOYMENT % "true"))
    changed.append(kubectl("patch", "deployment", "web", "--type", "json", "-p", '[{"op":"add","path":"/spec/template/spec/hostNetwork","value":true}]'))
    assert [(each.returncode, "host" in each.stderr) for each in changed] == [(1, True)] * 4, [each.stderr for each in changed]
    found = cluster.kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}{.spec.template.spec.hostNetwork}")
    assert found == "third"
    _done(kubectl("delete", "deployment", "web"))


def test_a_held_deletion_says_its_ticket_and_is_carried_out_once_it_is_approved(cluster: Cluster, service: Service) -> None:
    cluster.kubectl("create", "configmap", "held-a")
    delete = f"{cluster.programs.kubectl} --kubeconfig {cluster.kubeconfig} delete configmap held-a --wait=false"
    words = ["run", "--workload", "support-bot", "--no-tty", "--", "sh", "-c", f"{delete} 2>&1; read go; {delete} 2>&1"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*service.command, *words], env=service.environment, cwd="/", text=True, stdin=pipe, stdout=pipe) as program:
        assert program.stdout is not None
        held = program.stdout.readline()
        assert ("Forbidden" in held, "held by rule deletion-needs-a-human" in held) == (True, True), held
        [ticket] = json.loads(service.hostagent("approvals", "list", "--json", user="dana").stdout)
        assert "held-a" in cluster.kubectl("get", "configmaps", "-o", "name")
        service.hostagent("approvals", "approve", str(ticket["ticket"]), user="dana")
        rest, _ = program.communicate("go on\n", timeout=60)
    assert "deleted" in rest, rest
    assert "held-a" not in cluster.kubectl("get", "configmaps", "-o", "name")


def test_a_held_exec_says_so_over_the_fallback_as_well_and_runs_once_it_is_approved(cluster: Cluster, service: Service) -> None:
    cluster.pod("held-pod")
    run = f"{cluster.programs.kubectl} --kubeconfig {cluster.kubeconfig} exec held-pod -- echo ran"
    words = ["run", "--workload", "support-bot", "--no-tty", "--", "sh", "-c", f"{run} 2>&1; echo over; read go; {run} 2>&1"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*service.command, *words], env=service.environment, cwd="/", text=True, stdin=pipe, stdout=pipe) as program:
        assert program.stdout is not None
        said = "".join(iter(program.stdout.readline, "over\n"))
        assert ("held by rule exec-needs-a-human" in said, "run it again once it is approved" in said) == (True, True), said
        [ticket] = json.loads(service.hostagent("approvals", "list", "--json", user="dana").stdout)
        service.hostagent("approvals", "approve", str(ticket["ticket"]), user="dana")
        rest, _ = program.communicate("go on\n", timeout=60)
    assert rest.splitlines() == ["ran"], rest


def test_the_target_can_be_tried(service: Service) -> None:
    tried = service.hostagent("target", "test", "kube", check=False)
    assert (tried.returncode, "tls" in tried.stdout) == (0, True), tried.stdout


def test_nobody_acts_for_another(cluster: Cluster, kubectl: Kubectl) -> None:
    before = len(cluster.audited())
    _done(kubectl("--as", "system:admin", "--as-group", "system:masters", "get", "configmaps"))
    events = [event for event in cluster.audited()[before:] if str(event["userAgent"]).startswith("kubectl")]
    assert events
    assert [event for event in events if event.get("impersonatedUser")] == []


def test_exec_runs_with_its_streams_and_status_and_each_stream_is_a_row(cluster: Cluster, service: Service) -> None:
    folder = cluster.pod("shell")
    kubectl = _kubectl(cluster.programs.kubectl, cluster, service)
    done = kubectl("exec", "-i", "shell", "--", "sh", "-c", "cat; pwd; echo no >&2; exit 3", input="in\n")
    assert (done.returncode, done.stdout, "no\n" in done.stderr) == (3, f"in\n{folder}\n", True), done.stderr
    question = "select direction, name, size from transfers where name like '%/shell/exec:std%' order by name"
    rows = service.wait_sql(f"{question} limit 3")
    where = "/api/v1/namespaces/default/pods/shell/exec"
    streams = (("upload", "stdin", 3), ("download", "stdout", len(done.stdout)), ("download", "stderr", 3))
    assert {(row["direction"], row["name"], row["size"]) for row in rows} == {(way, f"{where}:{name}", size) for way, name, size in streams}


def test_files_are_copied_both_ways(cluster: Cluster, service: Service) -> None:
    folder = cluster.pod("copies")
    copy = f"{cluster.programs.kubectl} --kubeconfig {cluster.kubeconfig} cp"
    made = "head -c 300000 /dev/urandom > /tmp/up"
    done = service.launch("sh", "-c", f"{made} && {copy} /tmp/up default/copies:up && {copy} default/copies:up /tmp/down && cmp /tmp/up /tmp/down && echo same", timeout=100)
    assert (done.stdout.endswith("same\n"), (folder / "up").stat().st_size) == (True, 300_000), done.stderr


@pytest.fixture(scope="module")
def pod(cluster: Cluster) -> Path:
    """The folder of the pod ``teller``."""
    return cluster.pod("teller")


def test_logs_are_read(kubectl: Kubectl, pod: Path) -> None:
    pod.with_name(f"{pod.name}.log").write_text("one\ntwo\n", encoding="utf-8")
    assert _done(kubectl("logs", "teller")) == "one\ntwo\n"


def test_what_is_denied_in_prod_is_denied_over_every_way_in(cluster: Cluster, kubectl: Kubectl) -> None:
    if "prod" not in cluster.kubectl("get", "namespaces", "-o", "name"):
        cluster.kubectl("create", "namespace", "prod")
    before = len(cluster.audited())
    denied = kubectl("exec", "anything", "-n", "prod", "--", "id")
    assert denied.returncode == 1
    assert not [event for event in cluster.audited()[before:] if event.get("objectRef", {}).get("subresource") == "exec"]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("pod")
def test_an_old_kubectl_is_told_why_it_cannot_exec(cluster: Cluster, service: Service) -> None:
    refused = _kubectl(cluster.programs.kubectl_debian, cluster, service)("exec", "teller", "--", "id")
    assert (refused.returncode, "SPDY/3.1 is not spoken here" in refused.stderr) == (1, True), refused.stderr


@pytest.mark.usefixtures("pod")
def test_a_port_is_not_forwarded(kubectl: Kubectl) -> None:
    refused = kubectl("port-forward", "teller", ":80", timeout=60)
    assert (refused.returncode, "hostagent" in refused.stderr) == (1, True), refused.stderr


_PYTHON = """
import sys
from kubernetes import client, config, watch
config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()
print("default" in [each.metadata.name for each in core.list_namespace().items])
print(core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="snake"), data={"a": "1"})).data)
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
    done = service.launch(str(cluster.programs.python), "-c", _PYTHON, str(cluster.kubeconfig))
    assert done.stdout.splitlines() == ["True", "{'a': '1'}", "ADDED {'a': '1'}", "{'a': '2'}", "Success", "403 True"], done.stderr


_REQUESTS = [
    ["get", "--raw", "/api/v1/namespaces/default"], ["get", "--raw", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dx"],
    ["get", "--raw", "/api/v1/watch/namespaces/default/configmaps?timeoutSeconds=1"], ["get", "--raw", "/api//v1/./configmaps/?limit=1"],
    ["get", "--raw", "/api/v1/configmaps?watch&timeoutSeconds=1"], ["get", "--raw", "/apis/apps/v1/namespaces/default/deployments?watch=0"],
    ["get", "--raw", "/api/v1/namespaces/default/pods/nothing/log"], ["get", "--raw", "/api/v1/namespaces/default/status"],
    ["delete", "--raw", "/api/v1/namespaces/default/events"],
]  # fmt: skip


def test_the_rows_say_what_the_servers_own_audit_says(cluster: Cluster, service: Service) -> None:
    before = len(cluster.audited())
    kubectl = _kubectl(cluster.programs.kubectl, cluster, service)
    for words in _REQUESTS:
        kubectl(*words)
    theirs = [_audited(event) for event in cluster.audited()[before:] if event["stage"] == "ResponseComplete" and str(event["userAgent"]).startswith("kubectl")]
    assert theirs

    def missing() -> list[tuple[str, str]]:
        rows = service.sql("select verb, resources from statements where completeness = 'full'")
        ours = {(row["verb"], each["name"]) for row in rows for each in _resources(row) if each["kind"] == "kubernetes"}
        return [each for each in theirs if each not in ours]

    wait_for(lambda: not missing(), f"the rows of {theirs}", 20)


def _resources(row: dict[str, object]) -> list[dict[str, str]]:
    found = row["resources"]
    listed: list[dict[str, str]] = json.loads(found) if isinstance(found, str) else found  # type: ignore[assignment]
    return listed


def _audited(event: dict[str, object]) -> tuple[str, str]:
    about: dict[str, str] = event["objectRef"]  # type: ignore[assignment]
    kind = f"{about['resource']}.{about['apiGroup']}" if about.get("apiGroup") else about["resource"]
    return str(event["verb"]), "/".join(filter(None, [about.get("namespace") or "-", kind, about.get("name") or "*", about.get("subresource")]))
