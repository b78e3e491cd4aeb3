"""Configuration, workload and target documents: what is taken, and that everything else is refused whole."""

from __future__ import annotations

import pytest

from hostagent.documents import parse_config, parse_target, parse_workload
from hostagent.model.errors import DocumentError
from hostagent.model.target import CredentialSource, Login, Target, UpstreamTLS
from hostagent.model.workload import IdentityKind, IdentitySource, Inbound, SharedPath, Workload


def test_workload_document_becomes_the_noun() -> None:
    text = """
    launchers: [root, ci]
    placement: isolated
    identity: {kind: local, groups: [support], purpose: tickets, claims: {team: crm}}
    paths: [{path: /srv/data, writable: true}]
    environment: {LANG: C.UTF-8}
    trust_files: [/etc/ssl/company.pem]
    inbound: [{port: 8080, opaque: true}, {port: 8443, listen: "2001:DB8::1", opaque: true}]
    root: /srv/images/crm
    """
    assert parse_workload("support-bot", text) == Workload(
        name="support-bot",
        launchers=frozenset({"root", "ci"}),
        identity=IdentitySource(
            kind=IdentityKind.LOCAL,
            subject="support-bot",
            groups=frozenset({"support"}),
            purpose="tickets",
            claims={"team": "crm"},
        ),
        paths=(SharedPath("/srv/data", writable=True),),
        environment={"LANG": "C.UTF-8"},
        trust_files=("/etc/ssl/company.pem",),
        inbound=(Inbound(8080), Inbound(8443, "2001:db8::1")),
        root="/srv/images/crm",
    )


def test_target_document_becomes_the_noun() -> None:
    text = """
    protocol: postgres
    hosts: [CRM.Internal., 10.0.0.5, "::ffff:10.0.0.6", "2001:DB8::5"]
    login: {user: proxy, credential: {env: "/etc/secrets#CRM"}}
    databases: [crm]
    """
    assert parse_target("crm", text) == Target(
        name="crm",
        protocol="postgres",
        hosts=("crm.internal", "10.0.0.5", "10.0.0.6", "2001:db8::5"),
        port=5432,
        login=Login("proxy", CredentialSource("env", "/etc/secrets#CRM")),
        tls=UpstreamTLS.VERIFY,
        databases=frozenset({"crm"}),
    )


_SOCKETS = "protocol: postgres\nlogin: {user: proxy}\n"


def test_a_target_may_be_a_unix_socket_alone_or_beside_its_hosts() -> None:
    path = "/run/postgresql/.s.PGSQL.5432"
    alone = parse_target("local", f"{_SOCKETS}sockets: [{path}]")
    assert (alone.hosts, alone.sockets, alone.tls, alone.loopback) == ((), (path,), UpstreamTLS.DISABLE, False)
    both = parse_target("local", f"{_SOCKETS}sockets: [{path}, /tmp/.s.PGSQL.5432]\nhosts: [localhost]")
    assert (both.sockets, both.tls, both.loopback) == ((path, "/tmp/.s.PGSQL.5432"), UpstreamTLS.VERIFY, True)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ("", "give hosts"),
        ('sockets: ["@crm"]', "abstract"),
        ('sockets: ["\\0crm"]', "abstract"),
        ("sockets: [run/db]", "absolute"),
        ("sockets: [/run/../etc/db]", "absolute"),
        ("sockets: [/run//db]", "absolute"),
        ("sockets: [//run/db]", "absolute"),
        ("sockets: [/run/db/]", "absolute"),
        (f"sockets: [/run/{'x' * 103}]", "longer than 107"),
        ("sockets: [/proc/1/root/run/db]", "/proc"),
        ("sockets: [/dev/log]", "/dev"),
        ("sockets: [/db]", "folder of its own"),
        ("sockets: [/etc/db]", "folder of its own"),
        ("sockets: [/run/a, /run/b]", "each its own document"),
        ("sockets: [/tmp/.s.PGSQL.5432]", "anybody can make a socket there"),
        ("sockets: [/var/tmp/pg/.s.PGSQL.5432]", "anybody can make a socket there"),
        ("sockets: [/run/a]\ntls: verify", "no TLS over a unix socket"),
        (f"hosts: [a]\nsockets: [{', '.join(f'/run/{number}' for number in range(9))}]", "sockets"),
    ],
)
def test_a_unix_socket_that_nothing_can_stand_in_for_is_refused(more: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        parse_target("local", f"{_SOCKETS}{more}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("launchers: [root]\nlauncherz: [x]", "launcherz"),
        ("launchers: [root]\nlaunchers: [x]", "given twice"),
        ("- a list", "expected a mapping"),
        ("placement: somewhere", "placement"),
        ("identity: {kind: token_file, path: /t}", "audience"),
        ("identity: {kind: token_file, path: /t, audience: a}", "issuer"),
        ("identity: {kind: local, issuer: https://x}", "token_file"),
        ("identity: {kind: token_file, path: /t, audience: a, issuer: i, groups: [admin]}", "come from the token"),
        ("paths: [{path: relative}]", "paths"),
        ("inbound: [8080]", "inbound"),
        ("inbound: [{port: 0, opaque: true}]", "inbound"),
        ("inbound: [{port: 8080}]", "opaque: true"),
        ("inbound: [{port: 8080, opaque: false}]", "opaque: true"),
        ("inbound: [{port: 901, opaque: true}]", "hostagent's own"),
        ("inbound: [{port: 8080, listen: example.com, opaque: true}]", "listen"),
        ("inbound: [{port: 8080, opaque: true}, {port: 8080, listen: '::1', opaque: true}]", "twice"),
        ("placement: shared\ninbound: [{port: 8080, opaque: true}]", "placement: isolated"),
        ("root: image", "root"),
        ("root: /", "not the host's own root"),
        ("root: /srv/image\nuser: dana", "leave one of them out"),
        ("name: other", "file name"),
        ("a: [", "support-bot"),
    ],
)
def test_wrong_workload_document_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        parse_workload("support-bot", text)


@pytest.mark.parametrize("name", ["Support", "1bot", "../etc", "a b", "", "x" * 60])
def test_workload_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(DocumentError):
        parse_workload(name, "launchers: [root]")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("hosts: []", "hosts"),
        ("hosts: ['bad host']", "neither an address nor a host name"),
        ("port: 70000", "port"),
        ("protocol: gopher", "protocol"),
        ("tls: skip-verify", "tls"),
        ("login: {user: x, credential: {file: /a, env: '/b#C'}}", "exactly one"),
        ("login: {user: x, credential: {file: relative}}", "absolute"),
        ("login: {user: ''}", "user"),
    ],
)
def test_wrong_target_document_is_refused_with_its_reason(change: str, complaint: str) -> None:
    key = change.partition(":")[0]
    base = {"protocol": "protocol: postgres", "hosts": "hosts: [db]", "login": "login: {user: x}"}
    base[key] = change
    with pytest.raises(DocumentError, match=complaint):
        parse_target("crm", "\n".join(base.values()))


def test_empty_configuration_is_the_defaults_and_unknown_keys_are_errors() -> None:
    config = parse_config("c", "")
    assert config.control_socket == "/run/hostagent/proxyd/control.sock"
    assert config.enforcement.slice == "governed.slice"
    for text in ("[paths]\nstat = '/x'", "[nonsense]", "[enforcement]\nslice = 'Bad Slice'", "x = ", "[paths]\nstate='rel'"):
        with pytest.raises(DocumentError):
            parse_config("c", text)
