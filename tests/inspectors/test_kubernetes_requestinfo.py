"""What a request to the Kubernetes API is about. The first table follows the API server's own (requestinfo_test.go, v0.36)."""

from __future__ import annotations

import pytest

from hostagent.inspectors.kubernetes.requestinfo import NotDerivedError, derive
from hostagent.wire.http1.location import locate

SERVERS_OWN = [
    ("GET", "/api/v1/namespaces", "list v1 namespaces"),
    ("GET", "/api/v1/namespaces/other", "get v1 namespaces ns=other name=other"),
    ("GET", "/api/v1/namespaces/other/pods", "list v1 pods ns=other"),
    ("GET", "/api/v1/namespaces/other/pods/foo", "get v1 pods ns=other name=foo"),
    ("HEAD", "/api/v1/namespaces/other/pods/foo", "get v1 pods ns=other name=foo"),
    ("GET", "/api/v1/pods", "list v1 pods"),
    ("HEAD", "/api/v1/pods", "list v1 pods"),
    ("GET", "/api/v1/watch/pods", "watch v1 pods"),
    ("GET", "/api/v1/pods?watch=true", "watch v1 pods"),
    ("GET", "/api/v1/pods?watch=false", "list v1 pods"),
    ("GET", "/api/v1/watch/namespaces/other/pods", "watch v1 pods ns=other"),
    ("GET", "/api/v1/namespaces/other/pods?watch=1", "watch v1 pods ns=other"),
    ("GET", "/api/v1/namespaces/other/pods?watch=0", "list v1 pods ns=other"),
    ("GET", "/api/v1/namespaces/other/pods/foo/status", "get v1 pods/status ns=other name=foo"),
    ("GET", "/api/v1/namespaces/other/pods/foo/proxy/subpath", "get v1 pods/proxy ns=other name=foo"),
    ("PUT", "/api/v1/namespaces/other/finalize", "update v1 namespaces/finalize ns=other name=other"),
    ("PUT", "/api/v1/namespaces/other/status", "update v1 namespaces/status ns=other name=other"),
    ("PATCH", "/api/v1/namespaces/other/pods/foo", "patch v1 pods ns=other name=foo"),
    ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete v1 pods ns=other name=foo"),
    ("POST", "/api/v1/namespaces/other/pods", "create v1 pods ns=other"),
    ("DELETE", "/api/v1/nodes", "deletecollection v1 nodes"),
    ("DELETE", "/api/v1/namespaces", "deletecollection v1 namespaces"),
    ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection v1 pods ns=other"),
    ("DELETE", "/apis/extensions/v1/namespaces/other/pods", "deletecollection extensions v1 pods ns=other"),
    ("POST", "/apis/extensions/v1beta3/namespaces/other/pods", "create extensions v1beta3 pods ns=other"),
    ("GET", "/apis/group/version/resource?fieldSelector=metadata.name=name1", "list group version resource name=name1"),
    ("GET", "/apis/group/version/resource?watch=true&fieldSelector=metadata.name=name1", "watch group version resource name=name1"),
    ("GET", "/apis/group/version/resource?fieldSelector=foo=bar", "list group version resource"),
    ("GET", "/apis/group/version/resource?fieldSelector=metadata.name=name1,foo", "list group version resource"),
    ("GET", "/apis/group/version/resource?fieldSelector=metadata.name=name1,foo&watch=true", "watch group version resource"),
    ("GET", "/", "get"),
    ("GET", "/api/version/", "get"),
    ("GET", "/apis/group/version/", "get"),
    ("GET", "/badprefix/version/resource", "get"),
    ("GET", "/apis/version/resource", "get"),
]
AND_OURS = [
    ("GET", "/api/v1/pods?watch", "watch v1 pods"),
    ("GET", "/api/v1/pods?watch=no", "watch v1 pods"),
    ("GET", "/api/v1/pods?watch=FALSE", "list v1 pods"),
    ("GET", "/api/v1/pods?Watch=1", "list v1 pods"),
    ("GET", "/api/v1/namespaces/other/pods/foo?watch=1", "get v1 pods ns=other name=foo"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name!%3Dfoo", "list v1 pods"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name%3D%3Dfoo,spec.nodeName%3Dn", "list v1 pods name=foo"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name%3Da%3Db", "list v1 pods"),
    ("GET", "/api/v1/pods?fieldSelector=metadata.name%3D..", "list v1 pods"),
    ("DELETE", "/api/v1/namespaces/prod/pods?fieldSelector=metadata.name%3Dfoo", "deletecollection v1 pods ns=prod"),
    ("GET", "/api/v1/namespaces/prod/pods/web/exec?command=a&command=b", "get v1 pods/exec ns=prod name=web"),
    ("GET", "/api//v1/./namespaces/prod//pods/", "list v1 pods ns=prod"),
    ("DELETE", "/api/v1/namespaces/prod/pods/..", "delete v1 namespaces ns=prod name=prod"),
    ("GET", "/%61pi/v1/namespaces/prod/p%6Fds", "list v1 pods ns=prod"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", "get rbac.authorization.k8s.io v1 clusterroles name=system:node"),
    ("GET", "/api/v1/namespaces/prod/services/https:web:443/proxy/a/b", "get v1 services/proxy ns=prod name=https:web:443"),
    ("GET", "/api/v1/nodes/n1/proxy/run/prod/web/c", "get v1 nodes/proxy name=n1"),
    ("GET", "/api/v1/namespaces/namespaces/namespaces", "list v1 namespaces ns=namespaces"),
    ("GET", "/openapi/v2", "get"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "get rbac.authorization.k8s.io v1 clusterroles name=system:node"),
]


def told(method: str, target: str) -> str:
    """Return what is derived, in a line."""
    location = locate(method, target, "k8s.example", "https")
    info = derive(method, location.path, location.query)
    places = [f"ns={info.namespace}" if info.namespace else "", f"name={info.name}" if info.name else ""]
    return " ".join(filter(None, [info.verb, info.group, info.version, info.kind, *places]))


@pytest.mark.parametrize(("method", "target", "about"), [*SERVERS_OWN, *AND_OURS])
def test_a_request_is_about_what_the_api_server_takes_it_for(method: str, target: str, about: str) -> None:
    assert told(method, target) == about


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/version"), ("BREW", "/api/v1/pods"), ("OPTIONS", "/api/v1/pods"), ("GET", "/api/v1/Pods"), ("GET", "/api/V1/pods"),
        ("GET", "/apis/Apps/v1/deployments"), ("GET", "/api/v1/namespaces/Prod/pods"), ("GET", "/api/v1/namespaces/prod%2Fpods"),
        ("GET", "/api/v1/namespaces/prod/pods/a%2Fexec"), ("GET", "/api/v1/namespaces/prod/pods/a%20b"), ("GET", "/api/v1/namespaces/prod/pods/a%3Bb"),
        ("GET", "/api/v1/namespaces/prod/pods/%2Fa"), ("GET", "/api/v1%2Fpods/x/y"), ("GET", "/api%2Fv1%2Fsecrets/x/y/z"), ("GET", "/api%2fv1/secrets"),
        ("GET", "/api/v1/namespaces/prod/pods/web/Exec"),
        ("GET", "/api/v1/pods;x=1"), ("GET", "/api/v1/pods?a=1;watch=1"), ("GET", "/api/v1/pods?watch=0&watch=1"), ("GET", "/api/v1/watch"),
        ("DELETE", "/api/v1/watch/namespaces/prod/pods/web"), ("GET", "/api/v1/proxy/namespaces/other/pods/foo"), ("GET", "/api/v1/pods?watch=%ff"),
    ],
)  # fmt: skip
def test_what_could_be_about_something_else_is_about_nothing(method: str, target: str) -> None:
    with pytest.raises(NotDerivedError):
        told(method, target)


@pytest.mark.parametrize(
    ("method", "target", "dry"),
    [
        ("PATCH", "/api/v1/namespaces/a/pods/b?dryRun=All", True), ("DELETE", "/api/v1/pods?dryRun=All", True), ("POST", "/api/v1/namespaces/a/pods?dryRun=", False),
        ("POST", "/api/v1/namespaces/a/pods?dryrun=All", False), ("GET", "/api/v1/secrets?dryRun=All", False), ("POST", "/api/v1/namespaces/a/pods/b/exec?dryRun=All", False),
        ("POST", "/api/v1/namespaces/a/services/b/proxy/x?dryRun=All", False), ("POST", "/api/v1/namespaces/a/serviceaccounts/b/token?dryRun=All", False),
    ],
)  # fmt: skip
def test_only_what_would_change_something_and_is_asked_not_to_is_a_dry_run(method: str, target: str, dry: bool) -> None:
    location = locate(method, target, "k8s.example", "https")
    assert derive(method, location.path, location.query).dry_run is dry
