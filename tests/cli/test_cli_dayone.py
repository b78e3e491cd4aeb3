"""Day one at the command line: what init, target, workload, policy new and config write, refuse and say."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hostagent.cli.main import main
from hostagent.daemon.configfile import load_config, load_targets, load_workloads

pytestmark = pytest.mark.root
URL = "postgresql://crm_proxy@crm.internal:5432/crm?sslmode=verify-full"


@pytest.fixture
def toml(tmp_path: Path) -> str:
    """The configuration of a folder that ``init`` has made; the accounts are ones that every host has."""
    file = tmp_path / "etc" / "hostagent.toml"
    assert run(str(file), "init").exit_code == 0
    text = file.read_text().replace('#proxy = "hostagent"', 'proxy = "nobody"').replace('#recorder = "hostagent-rec"', 'recorder = "daemon"')
    file.write_text(text)
    return str(file)


def run(toml: str, *words: str, stdin: str = "") -> Result:
    """Run a command of ours with this configuration."""
    return CliRunner().invoke(main, ["--config", toml, *words], input=stdin)


def test_init_makes_a_folder_that_loads_denies_and_is_left_alone_the_second_time(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "hostagent.toml"
    made = run(str(file), "init", "--state", "/srv/state")
    assert (made.exit_code, f"wrote {file}" in made.stdout, "next:" in made.stdout) == (0, True, True)
    modes = {name: stat.S_IMODE((file.parent / name).stat().st_mode) for name in ("targets", "workloads", "policy", "secrets")}
    assert modes == {"targets": 0o755, "workloads": 0o755, "policy": 0o755, "secrets": 0o700}
    config = load_config(str(file))
    assert (config.paths.config, config.paths.state, config.limits.login_timeout_s) == (str(file.parent), "/srv/state", 30.0)
    assert "everything is denied" in run(str(file), "policy", "check").stdout
    file.write_text(file.read_text() + "# mine\n")
    (file.parent / "secrets").chmod(0o755)
    (file.parent / "targets").chmod(0o700)
    again = run(str(file), "init")
    assert (again.exit_code, f"kept  {file}" in again.stdout, "secrets/ (mode 755 -> 700)" in again.stdout) == (0, True, True)
    assert stat.S_IMODE((file.parent / "targets").stat().st_mode) == 0o755  # the proxy reads them
    assert file.read_text().endswith("# mine\n")


def test_every_key_of_the_configuration_that_init_writes_may_be_uncommented(toml: str) -> None:
    text = "\n".join(line.removeprefix("#") if line[:2] not in ("# ", "#") else line for line in Path(toml).read_text().splitlines())
    Path(toml).write_text(text)
    shown = json.loads(run(toml, "config", "show", "--json").stdout)
    assert shown["verify"]["every_s"] == 900.0


def test_a_target_from_a_url_is_the_document_a_person_would_write(toml: str) -> None:
    added = run(toml, "target", "add", "crm-db", URL, "--secret", "ask", "--label", "env=a: b", "--client-user", "crm_app", stdin="s3cret\n")
    assert (added.exit_code, "s3cret" in added.output) == (0, False), added.output
    secret = Path(toml).parent / "secrets" / "crm-db"
    assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == ("s3cret\n", 0o600)
    target = load_targets(load_config(toml))["crm-db"]
    assert (target.hosts, target.port, target.tls.value, target.databases, target.login.user) == (("crm.internal",), 5432, "verify", {"crm"}, "crm_proxy")
    assert (target.labels, target.users) == ({"env": "a: b"}, {"crm_app"})
    [row] = json.loads(run(toml, "target", "list", "--json").stdout)
    assert (row["credential"], row["login_user"]) == (f"file:{secret}", "crm_proxy")
    assert yaml.safe_load(run(toml, "target", "show", "crm-db").stdout)["protocol"] == "postgres"
    again = run(toml, "target", "add", "crm-db", URL, "--secret", "ask", stdin="other\n")
    assert (again.exit_code, secret.read_text()) == (73, "s3cret\n")


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["postgresql://u:hidden@h/d"], 2, "--secret ask"),
        (["postgresql://u@h/d?password=hidden"], 2, "--move-password"),
        (["postgresql://u@h/d"], 2, "say where the proxy's password is"),
        (["mysql://u@h/d", "--secret", "ask"], 2, "must begin with postgresql://, https:// or kubernetes://"),
        (["https://h", "--scheme", "basic", "--secret", "file:/x"], 78, "scheme: basic"),
        (["postgresql://u@a:1,b:2/d", "--secret", "file:/x"], 2, "several ports"),
        (["postgresql://h/d", "--secret", "file:/x"], 78, "user is required"),
        (["postgresql://u@h/d", "--secret", "file:relative"], 78, "absolute path"),
        (["postgresql://u@h_!/d", "--secret", "file:/x"], 78, "neither an address nor a host name"),
    ],
)
def test_a_target_that_would_not_do_is_refused_and_nothing_is_written(toml: str, words: list[str], status: int, says: str) -> None:
    refused = run(toml, "target", "add", "x", *words)
    assert (refused.exit_code, says in refused.output, "hidden" in refused.output) == (status, True, False), refused.output
    assert list((Path(toml).parent / "targets").iterdir()) == list((Path(toml).parent / "secrets").iterdir()) == []


def test_a_password_in_the_url_is_moved_only_when_asked(toml: str) -> None:
    added = run(toml, "target", "add", "x", "postgresql://u:p%40ss@h/d?sslmode=require", "--move-password")
    assert (added.exit_code, "p@ss" in added.output, "always verifies" in added.output) == (0, False, True)
    assert (Path(toml).parent / "secrets" / "x").read_text() == "p@ss\n"


def test_a_web_server_is_a_target_too(toml: str) -> None:
    for name, url, *more in (
        ("plain", "http://docs.internal:8080/a?b"),
        ("api", "https://api.example.com", "--scheme", "header:X-Api-Key", "--secret", "sealed:api"),
        ("basic", "https://bot@legacy.internal", "--secret", "file:/x"),
        ("cluster", "kubernetes://k8s.internal", "--secret", "file:/k"),
    ):
        added = run(toml, "target", "add", name, url, *more)
        assert added.exit_code == 0, added.output
    targets = load_targets(load_config(toml))
    assert [(each.protocol, each.port, each.tls.value, each.login.scheme, each.login.header, each.login.user) for each in targets.values()] == [
        ("http", 443, "verify", "header", "X-Api-Key", ""),
        ("http", 443, "verify", "basic", "", "bot"),
        ("kubernetes", 6443, "verify", "bearer", "", ""),
        ("http", 8080, "disable", "", "", ""),
    ]


def test_a_second_target_at_the_same_place_is_refused_with_both_names(toml: str) -> None:
    run(toml, "target", "add", "one", URL, "--secret", "file:/x")
    refused = run(toml, "target", "add", "two", URL, "--secret", "file:/x")
    assert (refused.exit_code, "one and two both claim" in refused.output) == (78, True)


def test_a_workload_reads_back_as_it_was_asked_for(toml: str) -> None:
    words = ["--launcher", "root", "--group", "yes", "--purpose", "a: #b", "--path", "/srv:rw", "--env", "A=1", "--trust-file", "/etc/ca.pem"]
    assert run(toml, "workload", "add", "bot", *words).exit_code == 0
    bot = load_workloads(load_config(toml))["bot"]
    assert (bot.launchers, bot.identity.groups, bot.identity.purpose, bot.environment) == ({"root"}, {"yes"}, "a: #b", {"A": "1"})
    assert [(each.path, each.writable) for each in bot.paths] == [("/srv", True)]
    token = ["--token-file", "/run/t", "--issuer", "https://id.example.com", "--subject", "repo:acme/shop:*"]
    assert run(toml, "workload", "add", "ci", *token).exit_code == 0
    rows = json.loads(run(toml, "workload", "list", "--json").stdout)
    assert [(row["name"], row["identity"]["audience"]) for row in rows] == [("bot", ""), ("ci", "hostagent")]
    assert run(toml, "workload", "add", "Bad").exit_code == 78
    shown = run(toml, "workload", "add", "dry", "--dry-run")
    assert ("launchers: [root]" in shown.stdout, (Path(toml).parent / "workloads" / "dry.yaml").exists()) == (True, False)


def test_every_example_that_can_be_made_a_policy_is_one_and_passes_its_own_table(toml: str) -> None:
    names = [row["name"] for row in json.loads(run(toml, "policy", "new", "--list", "--json").stdout)]
    assert "starter" in names
    made = run(toml, "policy", "new", "support", "--from-example", "starter", "--workload", "bot", "--target", "crm-db")
    assert made.exit_code == 0, made.output
    assert "id: support-daily-work" in (Path(toml).parent / "policy" / "support.yaml").read_text()
    assert run(toml, "policy", "test").stdout.startswith("11 of 11")
    twice = run(toml, "policy", "new", "other", "--from-example", "read-only", "--target", "x")
    assert (twice.exit_code, "names no target of its own" in twice.output) == (2, True)
    exists = run(toml, "policy", "new", "support", "--from-example", "read-only")
    assert exists.exit_code == 73


def test_config_check_names_every_problem_with_its_place(toml: str) -> None:
    folder = Path(toml).parent
    good = run(toml, "config", "check")
    assert good.exit_code == 0, good.output
    (folder / "targets" / "a.yaml").write_text("protocol: postgres\nhostz: [a]\nhosts: [a]\nlogin: {user: x, credential: {file: /nope}}\n")
    (folder / "targets" / "b.yaml").write_text("protocol: postgres\nhosts: [b]\nlogin:\n  user: x\n  credential: {file: /nope}\n")
    (folder / "workloads" / "w.yaml").write_text(f"launchers: [nobody-here]\npaths:\n  - path: /nope\ntrust_files: [{toml}]\n")
    (folder / "policy" / "p.yaml").write_text("version: 1\nrules:\n  - id: a\n    who: {workload: nope}\n    then: deny\n  - {id: b, tehn: deny}\n")
    found = run(toml, "config", "check", "--json")
    problems = [(Path(each["file"]).name, each["line"], each["severity"], each["message"]) for each in json.loads(found.stdout)["problems"]]
    assert found.exit_code == 78
    assert problems == [
        ("a.yaml", 2, "error", "hostz: unknown key; did you mean hosts?"),
        ("b.yaml", 5, "error", "login.credential: credential /nope: No such file or directory"),
        ("w.yaml", 1, "error", "launchers: there is no user nobody-here"),
        ("w.yaml", 3, "error", "paths: /nope does not exist: a launch would fail"),
        ("w.yaml", 4, "error", f"trust_files: {toml} is in a folder that no workload can look into: put it into /etc/ssl/certs"),
        ("p.yaml", 6, "error", "rules.1.then: this key is required"),
        ("p.yaml", 6, "error", "rules.1.tehn: unknown key; did you mean then?"),
        ("p.yaml", 4, "warning", "no workload is called nope: this rule applies to nothing"),
    ]
    Path(toml).write_text("[limits]\nlogin_timout_s = 3\n[verify]\nevery_s = -1\n")
    wrong = run(toml, "config", "check")
    assert (wrong.exit_code, f"{toml}:2: error: limits.login_timout_s: unknown key; did you mean login_timeout_s?" in wrong.stdout) == (78, True)
    assert f"{toml}:4: error: verify.every_s" in wrong.stdout


def test_config_show_tells_defaults_from_what_the_file_says(toml: str) -> None:
    lines = run(toml, "config", "show").stdout.splitlines()
    assert 'proxy = "nobody"' in lines
    assert "login_timeout_s = 30.0   # default" in lines


def test_init_makes_the_accounts_that_are_missing_and_only_those(tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    script = f"""
        set -e; mkdir {layers}; mount -t tmpfs t {layers}; mkdir {layers}/up {layers}/work
        mount -t overlay o -o lowerdir=/etc,upperdir={layers}/up,workdir={layers}/work /etc
        groupadd --system hostagent-approvers 2>/dev/null || true
        {sys.executable} -m hostagent init --accounts; {sys.executable} -m hostagent init --accounts
        id -un hostagent hostagent-rec
    """
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("made  user hostagent\n"), done.stdout.count("made  user hostagent-rec\n")) == (0, 1, 1), done
