"""The container files say the same of the same service; `make test-package` checks them against the published schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONTAINER = Path(__file__).resolve().parents[2] / "packaging/container"


def _compose() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text(encoding="utf-8"))["services"]["hostagent"]
    return service


def _pod() -> dict[str, Any]:
    documents = list(yaml.safe_load_all((CONTAINER / "daemonset.yaml").read_text(encoding="utf-8")))
    pod: dict[str, Any] = next(each for each in documents if each["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    return pod


def test_both_stand_where_the_rules_are_made() -> None:
    service, pod = _compose(), _pod()
    assert (service["privileged"], service["network_mode"], service["pid"], service["cgroup"]) == (True, "host", "host", "host")
    assert (pod["containers"][0]["securityContext"]["privileged"], pod["hostNetwork"], pod["hostPID"]) == (True, True, True)
    # Kubernetes has no word for the host's cgroup namespace.
    assert pod["containers"][0]["command"][:5] == ["/usr/bin/nsenter", "--target", "1", "--cgroup", "--"]


def test_both_have_the_same_parts_of_the_host_and_keep_their_state() -> None:
    bound = {each["source"] for each in _compose()["volumes"] if each["type"] == "bind"}
    mounted = {each["hostPath"]["path"] for each in _pod()["volumes"]}
    assert mounted - bound == {"/var/lib/hostagent", "/run/hostagent"}
    assert not bound - mounted
    kept = [each["target"] for each in _compose()["volumes"] if each["type"] == "volume"]
    assert kept == ["/var/lib/hostagent"]


def test_both_run_the_image_of_the_dockerfile() -> None:
    entry = '["/usr/bin/hostagent"]'
    assert f"ENTRYPOINT {entry}" in (CONTAINER / "Dockerfile").read_text(encoding="utf-8")
    assert _compose()["command"] == ["up"]
    assert _pod()["containers"][0]["command"][-2:] == ["/usr/bin/hostagent", "up"]
    assert _pod()["containers"][0]["image"] == _compose()["image"]
