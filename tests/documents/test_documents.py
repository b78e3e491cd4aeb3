"""Configuration, workload and target documents: what is taken, and that everything else is refused whole."""

from __future__ import annotations

import pytest

from hostagent.documents import parse_config, parse_target, parse_workload
from hostagent.documents.connection import parse_url
from hostagent.documents.drafts import written
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


@pytest.mark.parametrize(
    "text",
    [
        "[enforcement]\nuid_first = 4294967000\n",  # the last of them would be (uid_t) -1, which to setresuid means: stay root
        "[users]\nproxy = \"root\"\n",
        "[users]\nproxy = \"both\"\nrecorder = \"both\"\n",
        "[users]\nproxy = \"a\\nb\"\n",
        "[limits]\nconnect_timeout_s = inf\n",
        "[limits]\nlogin_timeout_s = 1e300\n",
        "[verify]\nevery_s = nan\n",
        f"[limits]\nmemory_mib = {'9' * 5000}\n",
        "x = " + "[" * 5000,
        f"[paths]\nruntime = \"/{'x' * 100}\"\n",
    ],
)
def test_a_configuration_that_the_service_could_not_live_by_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_config("c", text)


def test_what_the_supervisor_writes_down_is_read_back_whatever_it_holds() -> None:
    config = parse_config("c", '[postgres]\nplaceholder_password = "a\\u007f\\\\\\"\\nb\\u0001"\n')
    assert parse_config("copy", written(config)) == config


@pytest.mark.parametrize("more", ["tls: !!bool perhaps", 'ca_file: "/a\\0b"', "port: !!int x", f"port: {'9' * 5000}"])
def test_a_scalar_that_is_none_is_a_complaint_with_its_line(more: str) -> None:
    with pytest.raises(DocumentError, match=r"^t:[13]: "):
        parse_target("t", f"protocol: postgres\nhosts: [a]\n{more}\nlogin: {{user: x}}\n")


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@[::1/db", "postgresql://u:hunter2\u2100@a/db", "postgresql://u:hunter2@a:\u00b2/db"])
def test_a_url_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_url(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    "text", ["environment: {'A=B': x}", "environment: {'': x}", "identity: {kind: token_file, path: /a, audience: a, issuer: 'https://['}"]
)
def test_what_no_launch_could_use_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(DocumentError, match="w:1: "):
        parse_workload("w", text)


@pytest.mark.parametrize("kind", ["systemd", "sealed"])
def test_the_name_of_a_credential_is_no_path(kind: str) -> None:
    with pytest.raises(DocumentError, match="names, not paths"):
        parse_target("t", f"protocol: postgres\nhosts: [a]\nlogin: {{user: x, credential: {{{kind}: ../../etc/shadow}}}}\n")
