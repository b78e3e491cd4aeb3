"""``with World() as world, Cluster(world) as cluster: …``: etcd and kube-apiserver on the stage's far host, past everything of ours.

What a test needs: ``url``, ``ca`` (the cluster's own authority, which a workload's kubeconfig names), ``target()`` and ``workload()``
(documents for ``Settings``), ``kubeconfig`` (a workload's, with a token that the server does not know), ``kubectl()`` (the cluster's
administrator, directly, never governed) and ``audited()`` (what the API server itself says that it was asked).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.kubernetes.authority import Authority
from tests.kubernetes.programs import Programs, present
from tests.stage import World
from tests.stage.world import DATABASE_V4, DATABASE_V6, wait_for

NAME = "kube.internal"
PORT = 6443
WRONG_TOKEN = "of-the-workload-and-wrong"
_AUDIT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""
_ACCOUNT = """\
apiVersion: v1
kind: Namespace
metadata: {name: hostagent}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: hostagent, namespace: hostagent}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: hostagent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: hostagent, namespace: hostagent}]
"""


_NODE = """\
apiVersion: v1
kind: Node
metadata: {name: node-1}
"""
_NODE_STATUS = """\
status:
  addresses: [{type: InternalIP, address: %s}]
  daemonEndpoints: {kubeletEndpoint: {Port: 10250}}
"""
_POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}}
spec:
  nodeName: node-1
  automountServiceAccountToken: false
  containers: [{name: main, image: "registry.internal/main:1"}]
"""
_POD_STATUS = """\
status:
  phase: Running
  podIP: %s
  conditions: [{type: Ready, status: "True"}]
  containerStatuses: [{name: main, ready: true, restartCount: 0, image: "registry.internal/main:1", imageID: main, state: {running: {}}}]
"""
_NOBODY = 65534


class Cluster:
    """One API server with an empty etcd; RBAC is on. ``folder`` holds all of it, on the stage's private tmpfs."""

    def __init__(self, world: World, programs: Programs | None = None) -> None:
        """Nothing happens before ``__enter__``."""
        self.world = world
        self.programs = programs or present()
        self.folder = world.folder / "kubernetes"
        self.url = f"https://{NAME}:{PORT}"
        self.ca = world.folder / "kubernetes-ca.pem"
        self.token_file = world.folder / "kubernetes-token"
        self.kubeconfig = world.folder / "kubeconfig"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._admin = self.folder / "admin.kubeconfig"

    def __enter__(self) -> Self:
        """Start both, wait until the API server is ready, and give hostagent an account of its own there."""
        try:
            self.folder.mkdir(mode=0o711)
            with (self.world.folder / "hosts").open("a", encoding="utf-8") as hosts:
                hosts.write(f"{DATABASE_V4} {NAME}\n{DATABASE_V6} {NAME}\n")
            self._start()
            self.kubectl("create", "-f", "-", input=_ACCOUNT)
            self.kubectl("create", "-f", "-", input=_NODE)
            self.kubectl("patch", "node", "node-1", "--subresource=status", "-p", _NODE_STATUS % DATABASE_V4)
            token = self.kubectl("create", "token", "hostagent", "-n", "hostagent", "--duration=24h").strip()
            self.token_file.touch(0o600)
            self.token_file.write_text(token + "\n", encoding="utf-8")
            self._write_kubeconfig(self.kubeconfig, {"token": WRONG_TOKEN})
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in reversed(self.processes.values()):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def target(self, protocol: str = "http") -> str:
        """Return a target document: the API server, verified by its own authority, with hostagent's account."""
        return (
            f"protocol: {protocol}\nhosts: [{NAME}]\nport: {PORT}\nca_file: {self.ca}\n"
            f"login: {{scheme: bearer, credential: {{file: {self.token_file}}}}}\n"
        )

    def workload(self) -> str:
        """Return a workload document: programs find the cluster's authority where their kubeconfig says, and ours beside it."""
        return f"launchers: [root]\nidentity: {{kind: local, groups: [support], purpose: look after pods}}\ntrust_files: [{self.ca}]\n"

    def as_administrator(self, program: Path) -> list[str]:
        """Return the words that run a kubectl as the cluster's administrator on the far host."""
        return ["nsenter", f"--net=/proc/{self.world.holder}/ns/net", str(program), "--kubeconfig", str(self._admin)]

    def kubectl(self, *words: str, program: Path | None = None, check: bool = True, **options: object) -> str:
        """Run kubectl (or another one) as the cluster's administrator on the far host; return what it printed.

        Raises:
            RuntimeError: it failed, unless ``check`` is false: then its error is returned too.
        """
        command = [*self.as_administrator(program or self.programs.kubectl), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60, **options)  # type: ignore[call-overload]
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr}")
        return str(done.stdout) if check else str(done.stdout + done.stderr)

    def pod(self, name: str, namespace: str = "default") -> Path:
        """Return the folder of a new pod that runs on the stand-in's node: its commands' working folder, and their user may write there.

        Its log is the file beside it with ``.log``, empty at first; its ports are those of the far host.
        """
        folder = self.folder / "pods" / namespace / name
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
        shutil.chown(folder, _NOBODY, _NOBODY)
        (folder.parent / f"{name}.log").touch()
        self.kubectl("create", "-f", "-", input=_POD % (name, namespace, name))
        self.kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "-p", _POD_STATUS % DATABASE_V4)
        return folder

    def audited(self) -> list[dict[str, object]]:
        """Return the API server's audit events so far (audit.k8s.io/v1): ``verb``, ``requestURI``, ``user``, ``objectRef``, …, as it derived them."""
        return [json.loads(line) for line in (self.folder / "audit.log").read_text(encoding="utf-8").splitlines()]

    def _start(self) -> None:
        authority = Authority(self.folder, "Kubernetes CA")
        self.ca.write_bytes(authority.certificate.read_bytes())
        self.ca.chmod(0o644)
        certificate, key = authority.issue("apiserver", NAME, hosts=(NAME, DATABASE_V4, DATABASE_V6, "kubernetes.default.svc"))
        kubelet_client = authority.issue("apiserver-kubelet", "kube-apiserver", organization="system:masters")
        admin = authority.issue("admin", "admin", organization="system:masters")
        self._write_kubeconfig(self._admin, {"client-certificate": str(admin[0]), "client-key": str(admin[1])})
        (self.folder / "audit.yaml").write_text(_AUDIT, encoding="utf-8")
        self._run("etcd", self.programs.etcd, "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level=error")
        accounts = authority.private("accounts")
        options = {
            "etcd-servers": "http://127.0.0.1:2379",
            "bind-address": "::",
            "secure-port": str(PORT),
            "advertise-address": DATABASE_V4,
            "tls-cert-file": str(certificate),
            "tls-private-key-file": str(key),
            "client-ca-file": str(authority.certificate),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(accounts),
            "service-account-signing-key-file": str(accounts),
            "service-cluster-ip-range": "10.96.0.0/24",
            "authorization-mode": "RBAC",
            # Nobody here gives each namespace the account that this plug-in demands of a pod.
            "disable-admission-plugins": "ServiceAccount",
            "kubelet-certificate-authority": str(authority.certificate),
            "kubelet-client-certificate": str(kubelet_client[0]),
            "kubelet-client-key": str(kubelet_client[1]),
            "kubelet-preferred-address-types": "InternalIP",
            "allow-privileged": "true",
            "audit-log-path": str(self.folder / "audit.log"),
            "audit-policy-file": str(self.folder / "audit.yaml"),
            "cert-dir": str(self.folder),
        }
        self._run("kube-apiserver", self.programs.kube_apiserver, *(f"--{name}={value}" for name, value in options.items()))
        (self.folder / "pods").mkdir()
        self._node(authority)
        wait_for(self._ready, "kube-apiserver", 120)

    def _node(self, authority: Authority) -> None:
        certificate, key = authority.issue("kubelet", "system:node:node-1", organization="system:nodes", hosts=(DATABASE_V4,))
        words = {"certificate": certificate, "key": key, "client-ca": authority.certificate, "folder": self.folder / "pods"}
        self._run("kubelet", self.programs.kubelet, *(f"--{name}={value}" for name, value in words.items()))

    def _ready(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                said = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"{name} ended with status {process.returncode}:\n{said[-3000:]}")
        return self.kubectl("get", "--raw", "/readyz", check=False) == "ok"

    def _run(self, name: str, program: Path, *words: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            command = ["nsenter", f"--net=/proc/{self.world.holder}/ns/net", str(program), *words]
            self.processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")

    def _write_kubeconfig(self, path: Path, user: dict[str, str]) -> None:
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "stage", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
                    "users": [{"name": "me", "user": user}],
                    "contexts": [{"name": "stage", "context": {"cluster": "stage", "user": "me"}}],
                    "current-context": "stage",
                }
            ),
            encoding="utf-8",
        )
        path.chmod(0o644)
