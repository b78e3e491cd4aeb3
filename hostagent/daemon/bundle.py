"""What ``hostagent support-bundle`` holds, and how nothing secret gets into it.

Two nets, one behind the other. Nothing is copied that could hold a secret by its nature: documents are parsed and written anew without
comments and without the values of environments and claims; no statement, evidence, journal, token or key is read into it; log lines
lose what they quote. Then every text is searched for the values of all secrets of this host (as text, hex and base64) and for what
looks like a token or a key; what is found is struck out, and a bundle in which one is still to be found is not written.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hostagent import __version__
from hostagent.daemon.configfile import load_targets, load_workloads, read_document
from hostagent.daemon.credentials import gather, open_store
from hostagent.documents import Config, parse_target, parse_workload
from hostagent.documents.source import read
from hostagent.model.errors import HostagentError
from hostagent.proxy.context import read_documents

_T = TypeVar("_T")

STRUCK = "[struck out]"
_TIMEOUT_S = 20.0
_LOG_LINES = 2000
_SHORT = 6
"""A secret of fewer characters is struck out only where it stands as a word: it may be part of any other."""
_MOST_SECRET = 1_048_576
_LOOKS_SECRET = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
    re.compile(r"(?i)(?<=authorization: )\S.*"),
    re.compile(r"(?i)\b(?:password|passwd|secret|token|api_?key)\s*[=:]\s*(?!\[struck)[^\s,;}\"']{3,}"),
)
_QUOTED = re.compile(r"""b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*\"""")
_ERROR_LINE = re.compile(r"^(?P<kind>(?:\w+\.)*\w+(?:Error|Exception|Refused|Interrupt|Exit|Group)): .*$")
_ORDINARY = re.compile(rb"[0-9]{0,5}|(?i:true|false|yes|no|none|on|off)")
_SECRET_NAME = re.compile(r"(?i)pass|secret|token|key|credential")


def collect(config: Config, reports: Mapping[str, object], logs: Iterable[Path]) -> dict[str, str]:
    """Return the files of a bundle, name to text, struck out already; ``MANIFEST.txt`` says what each is.

    Args:
        config: the configuration.
        reports: what the caller asked the running service and the doctor, by file name; JSON-compatible.
        logs: files that the service's messages go to, where they do not go to systemd's journal.

    Raises:
        HostagentError: something that looks secret could not be struck out.
    """
    files = {name: json.dumps(report, indent=1, default=str) for name, report in reports.items()}
    files["versions.json"] = json.dumps(_versions(), indent=1)
    files["config.json"] = json.dumps(_plain(config), indent=1)
    files |= _documents(config)
    files["files.txt"] = "".join(_listing(config))
    for name, command in _commands(config).items():
        files[name] = _said(command)
    if config.metrics.listen:
        files["metrics.txt"] = _metrics(config.metrics.listen)
    for path in logs:
        files[f"logs/{path.name}"] = log_text(_tail(path))
    files["logs/journal.txt"] = log_text(_said(["journalctl", "-u", "hostagent*", "-n", str(_LOG_LINES), "-o", "short-iso", "--no-pager"]))
    schema = Path(__file__).parents[1] / "recording/schema"
    files |= {f"schema/{path.name}": path.read_text(encoding="utf-8") for path in sorted(schema.glob("*.sql"))}
    secrets = known_secrets(config)
    struck = {name: strike(text, secrets) if not name.startswith("schema/") else text for name, text in files.items()}
    struck["MANIFEST.txt"] = _manifest(struck)
    for name, text in struck.items():
        if any(secret in text for secret in secrets if len(secret) >= _SHORT):
            raise HostagentError(f"{name} would hold a secret of this host; no bundle was written (please report this)")
    return struck


def write(place: Path, top: str, files: Mapping[str, str], now: int) -> None:
    """Write ``files`` below the folder ``top`` into the new gzipped tar ``place``, all with mode 0600.

    Raises:
        FileExistsError: ``place`` exists.
    """
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            data = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, now
            archive.addfile(entry, io.BytesIO(data))


_WHAT = {
    "doctor.json": "hostagent doctor --json",
    "status.json": "hostagent status --json, with the last run of verify",
    "versions.json": "versions of hostagent, its libraries, the kernel and the distribution",
    "config.json": "the configuration as it was understood",
    "documents/": "targets, workloads and policy without comments, without values of environments and claims",
    "files.txt": "owner, mode, size and path of what lies in the configuration, state and runtime folders; no content",
    "rules.txt": "the nft table as loaded",
    "units.txt": "the states of the units",
    "metrics.txt": "recorderd's counters",
    "logs/": "the last messages, without what they quote",
    "schema/": "the evidence's schema (the same on every host of this version)",
}


def _manifest(files: Mapping[str, str]) -> str:
    lines = [
        "hostagent support bundle. Please read it before you give it away: tar -xzf it and look at every file; all are text.",
        "It holds no credential, key, token, statement, result or journal; secrets known to this host were searched for and struck out.",
        "It does hold names: of hosts, targets, workloads, users, files.", "",
    ]  # fmt: skip
    for name, text in sorted(files.items()):
        what = next((what for prefix, what in _WHAT.items() if name == prefix or (prefix.endswith("/") and name.startswith(prefix))), "")
        lines.append(f"{len(text):9}  {name:40}  {what}")
    return "\n".join(lines) + "\n"


# -- what is told ----------------------------------------------------------------------------------------------------------


def _versions() -> dict[str, object]:
    names = ("cryptography", "duckdb", "pydantic", "pyroute2", "uvloop", "msgspec", "pyjwt", "pgparse", "click")
    found = {name: metadata.version(name) for name in names if _installed(name)}
    release = Path("/etc/os-release")
    return {
        "hostagent": __version__,
        "python": sys.version.split()[0],
        "kernel": " ".join(platform.uname()[i] for i in (0, 2, 3, 4)),
        "distribution": release.read_text(encoding="utf-8").splitlines()[0] if release.exists() else "",
        "nft": _said(["nft", "--version"]).strip(),
        "libraries": found,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _plain(value: object) -> Any:  # noqa: ANN401 - JSON of whatever the documents say
    """Return ``value`` as JSON can hold it, named tuples and structures by field; values of environments and claims struck out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _field(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return {name: _field(name, each) for name, each in value.model_dump().items()}
    if isinstance(value, Mapping):
        return {str(name): _field(str(name), each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(each) for each in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _field(name: str, value: object) -> Any:  # noqa: ANN401 - as _plain
    if name in ("environment", "claims", "headers") and isinstance(value, Mapping):
        return dict.fromkeys(map(str, value), STRUCK)
    if name == "placeholder_password" or (_SECRET_NAME.search(name) and isinstance(value, str) and not value.startswith("/")):
        return STRUCK if value else value
    return _plain(value)


def _documents(config: Config) -> dict[str, str]:
    files = {}
    for kind, load in (("targets", load_targets), ("workloads", load_workloads)):
        try:
            for name, document in load(config).items():
                files[f"documents/{kind}/{name}.json"] = json.dumps(_plain(document), indent=1)
        except (HostagentError, OSError) as error:
            files[f"documents/{kind}/REFUSED.txt"] = _unquoted(str(error))
    try:
        for name, text in read_documents(Path(config.policy)).items():
            files[f"documents/policy/{name}"] = yaml.safe_dump(_plain(yaml.safe_load(text)), sort_keys=False)
    except (HostagentError, OSError, yaml.YAMLError) as error:
        files["documents/policy/REFUSED.txt"] = _unquoted(str(error))
    return files


def _listing(config: Config) -> Iterator[str]:
    for top in (config.paths.config, config.paths.state, config.paths.runtime):
        for path in sorted(Path(top).rglob("*")):
            try:
                status = path.lstat()
            except OSError:
                continue
            yield f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {status.st_size:12} {path}\n"


def _commands(config: Config) -> dict[str, list[str]]:
    return {
        "rules.txt": ["nft", "list", "table", "inet", config.enforcement.table],
        "units.txt": ["systemctl", "show", "hostagent*", "governed.slice", "-p", "Id,LoadState,ActiveState,SubState,Result,NRestarts,MemoryCurrent"],
    }


def _metrics(listen: str) -> str:
    """Return recorderd's counters from its loopback address."""
    connection = http.client.HTTPConnection(listen, timeout=5)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {listen}: {error}\n"
    finally:
        connection.close()


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]} did not run: {type(error).__name__}\n"
    return done.stdout or done.stderr


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])


# -- what is not -----------------------------------------------------------------------------------------------------------


def log_text(text: str) -> str:
    """Return log lines without what they quote and without the words of exceptions: either may be a workload's data."""
    lines = []
    for line in text.splitlines():
        error = _ERROR_LINE.match(line.strip())
        lines.append(f"{error['kind']}: {STRUCK}" if error else _unquoted(line))
    return "\n".join(lines) + "\n"


def _unquoted(text: str) -> str:
    return _QUOTED.sub("'…'", text)


def strike(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without ``secrets`` (longest first) and without anything that looks like a key or a token."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, STRUCK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", STRUCK, text)
    for pattern in _LOOKS_SECRET:
        text = pattern.sub(STRUCK, text)
    return text


def known_secrets(config: Config) -> frozenset[str]:
    """Return every secret value of this host that can be known, in the forms in which one could stand in a text."""
    found: set[str] = set()
    for raw in _secret_values(config):
        text = raw.decode("utf-8", "replace").strip()
        found |= {text, *text.splitlines(), raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}
        found.add(json.dumps(text)[1:-1])
    return frozenset(secret for secret in found if len(secret.strip()) > 2 and not secret.startswith("-----"))


def _secret_values(config: Config) -> Iterator[bytes]:
    files = {Path(config.seal_key), Path(f"{config.seal_key}.next"), *_files_in(Path(config.paths.config, "secrets"))}
    # One by one: a document that is wrong, for which bundles are made, must not hide what the others keep secret.
    targets = dict(_right_ones(Path(config.targets), parse_target))
    yield from (secret.encode() for secret in gather(targets, config).values())
    sources = [target.login.credential for target in targets.values()]
    files |= {Path(source.location.partition("#")[0]) for source in sources if source is not None and source.kind in ("file", "env")}
    with contextlib.suppress(HostagentError, ValueError):
        store = open_store(config)
        yield from (store.get(entry.name).encode() for entry in store.entries())
    for _, workload in _right_ones(Path(config.workloads), parse_workload):
        if workload.identity.path:
            files.add(Path(workload.identity.path))
    for folder in (config.workloads, config.targets):
        for _, source in _right_ones(Path(folder), read):
            yield from _secret_words(source.value)
    for folder in (config.proxy_state, f"{config.paths.state}/enforcerd"):
        files |= {path for pattern in ("*.key", "issuer.json") for path in Path(folder).glob(pattern)}
    for path in sorted(files):
        yield from _in_file(path)
    yield from (value.encode() for name, value in os.environ.items() if _SECRET_NAME.search(name) and not value.startswith("/"))


def _right_ones(folder: Path, parse: Callable[[str, str], _T]) -> Iterator[tuple[str, _T]]:
    """Yield name and content of every document in ``folder`` that can be read."""
    for file in sorted(folder.glob("*.yaml")):
        with contextlib.suppress(HostagentError):
            yield file.stem, parse(file.stem, read_document(file))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file()]


def _secret_words(value: object, *, secret: bool = False) -> Iterator[bytes]:
    """Yield what stands in a document under a key that names something secret, whether the document may say that or not."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            named = name in ("environment", "claims") or (_SECRET_NAME.search(name) is not None and name != "credential")
            yield from _secret_words(each, secret=secret or named)
    elif isinstance(value, list):
        for each in value:
            yield from _secret_words(each, secret=secret)
    elif secret and not _ORDINARY.fullmatch(text := str(value).encode()):
        yield text


def _in_file(path: Path) -> Iterator[bytes]:
    """Yield the file's content, and the values of KEY=value lines and of JSON in it."""
    try:
        content = path.read_bytes()[:_MOST_SECRET]
    except OSError:
        return
    yield content
    for line in content.splitlines():
        _, equals, value = line.partition(b"=")
        value = value.strip().strip(b"'\"")
        if equals and not _ORDINARY.fullmatch(value):  # struck out, a port or a "true" would make everything unreadable
            yield value
    if path.suffix == ".json":
        try:
            private = json.loads(content).get("private", "")
        except (ValueError, AttributeError):
            return
        yield str(private).encode()
        yield base64.urlsafe_b64decode(str(private) + "=" * (-len(str(private)) % 4))
