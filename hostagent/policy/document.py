"""The form of a policy document: pydantic models, strict, every unknown key refused. ``policy/schema.json`` is made from them."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hostagent.model.operation import Access, Effect
from hostagent.model.transfer import Direction
from hostagent.wire.jsonpath import parse_path

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ATTRIBUTE = r"^[a-z][a-z0-9_]{0,63}$"
DEFAULT_TIMEOUT_S = 300.0


class Action(enum.StrEnum):
    """What a rule does with the operations it matches."""

    ALLOW = "allow"
    HOLD = "hold"
    DENY = "deny"
    MASK = "mask"


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _worded(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _worded_all(value: object) -> object:
    return [_worded(item) for item in value] if isinstance(value, list) else [_worded(value)]


Scalar = str | bool | int | float
"""What a claim, label or attribute may be."""

_Pattern = Annotated[str, Field(min_length=1, max_length=1000)]
Text = Annotated[str, BeforeValidator(_worded, json_schema_input_type=Scalar)]
"""One scalar, compared as text: 3 is "3", true is "true"."""

Texts = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_worded_all, json_schema_input_type=Scalar | list[Scalar]),
]
"""One scalar or a list of them, compared as text."""

Patterns = Annotated[
    tuple[_Pattern, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=_Pattern | Annotated[list[_Pattern], Field(min_length=1)]),
]
"""One glob pattern or a list of which any must match."""


class Strict(BaseModel):
    """Base of every part: unknown keys are refused. Lax only in that lists become tuples and sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Who(Strict):
    """Which workloads and identities a rule is about. Every part given must hold; of a list, any."""

    workload: Patterns | None = Field(default=None, description="Glob patterns of workload names.")
    issuer: Patterns | None = Field(default=None, description="Glob patterns of the token's issuer.")
    subject: Patterns | None = Field(default=None, description="Glob patterns of the token's subject.")
    groups: Patterns | None = Field(
        default=None, description="The identity is in a group that any of these patterns matches."
    )
    purpose: Patterns | None = Field(default=None, description="Glob patterns of the declared purpose.")
    claims: dict[str, Texts] = Field(
        default={}, description="Each named claim equals, or as a list contains, one of the values."
    )


class Where(Strict):
    """Which targets a rule is about."""

    target: Patterns | None = Field(default=None, description="Glob patterns of target names.")
    protocol: Patterns | None = Field(default=None, description="Protocols, such as postgres.")
    labels: dict[str, Texts] = Field(default={}, description="Each named label of the target matches one of the globs.")
    database: Patterns | None = Field(default=None, description="Glob patterns of the database the session is in.")
    user: Patterns | None = Field(default=None, description="Glob patterns of the user name the client asked for.")


class ObjectPattern(Strict):
    """A thing an operation touches, by name, kind and what is done to it."""

    name: _Pattern = Field(description="Glob: NAME matches in every schema, SCHEMA.NAME in that schema.")
    kind: _Pattern = Field(
        default="relation",
        description="Kind of resource: relation, function, role, schema, setting, file ...",
    )
    access: Annotated[
        tuple[Access, ...],
        Field(min_length=1),
        BeforeValidator(_listed, json_schema_input_type=Access | list[Access]),
    ] = Field(default=tuple(Access), description="What is done to it: read, write, define, use. All, if not given.")


def _object_patterns(value: object) -> object:
    items = value if isinstance(value, list) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in items]


def _json_path(text: str) -> str:
    parse_path(text)
    return text


_JsonPath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_json_path)]


class HttpBody(Strict):
    """What a request carries. Every part given must hold."""

    json_: dict[_JsonPath, Patterns] = Field(
        default={}, alias="json", description="What stands at each JSON path ($.kind, $.items[*].id, $..id) matches one of the globs."
    )
    form: dict[str, Patterns] = Field(default={}, description="Each named field of the form (urlencoded or multipart) matches one of the globs.")

    @model_validator(mode="after")
    def _consistent(self) -> HttpBody:
        if bool(self.json_) == bool(self.form):
            raise ValueError("give either json or form: no body is both")
        return self


class HttpRequest(Strict):
    """Which HTTP requests a rule is about. Every part given must hold."""

    methods: Patterns | None = Field(default=None, description="Methods, such as GET. In an allow rule they stand for effects.")
    hosts: Patterns | None = Field(default=None, description="Glob patterns of the host that is asked.")
    paths: Patterns | None = Field(
        default=None, description="Glob patterns of the path, decoded: * does not go beyond a slash, ** does."
    )
    query: dict[str, Patterns] = Field(default={}, description="Each named parameter matches one of the globs.")
    headers: dict[str, Patterns] = Field(default={}, description="Each named header field matches one of the globs.")
    grpc: Patterns | None = Field(
        default=None, description="Glob patterns of the gRPC method, package.Service/Method. In an allow rule they stand for effects."
    )
    aws: Patterns | None = Field(
        default=None, description="Glob patterns of the AWS operation, service:Operation (scheme: sigv4). In an allow rule they stand for effects."
    )
    body: HttpBody | None = Field(default=None, description="Members of a JSON body, or fields of a form, of at most 1 MiB.")

    @model_validator(mode="after")
    def _consistent(self) -> HttpRequest:
        if self == HttpRequest.model_construct():
            raise ValueError("give at least one of methods, hosts, paths, query, headers, grpc, aws and body")
        if wrong := [path for path in self.paths or () if not path.startswith(("/", "*"))]:
            raise ValueError(f"a path begins with / (or *): {wrong[0]!r}")
        if wrong := [name for name in self.headers if name != name.lower()]:
            raise ValueError(f"names of header fields are written in small letters here: {wrong[0]!r}")
        if wrong := [name for name in self.headers if name in ("authorization", "host", "content-length")]:
            raise ValueError(f"the header field {wrong[0]} is written by the proxy, so no rule can look at it")
        return self


def _sized(value: object) -> object:
    """Return a number of bytes that was written with a unit; anything else as it is, to be refused as what it is."""
    if not isinstance(value, str):
        return value
    number, unit = value[:-3].strip(), value[-3:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise ValueError(f"{value!r} is not a size: a number of bytes, or one with KiB, MiB or GiB, such as 10MiB")
    return int(number) * _UNITS[unit]


_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_Size = Annotated[int, Field(ge=0, le=1 << 60, strict=True), BeforeValidator(_sized, json_schema_input_type=int | str)]


class FileTransfer(Strict):
    """Which file transfers a rule is about. Every part given must hold."""

    direction: Direction = Field(description="upload: from the workload to the target; download: from the target to the workload.")
    names: Patterns | None = Field(
        default=None, description="Glob patterns of the file's name, or of its whole path; * goes beyond a slash."
    )
    media_types: Patterns | None = Field(
        default=None, description="Glob patterns of the declared media type, such as application/zip."
    )
    max_size: _Size | None = Field(default=None, description="allow: not more than so many bytes (10MiB); what nobody declared is cut there.")
    size_over: _Size | None = Field(
        default=None, description="deny and hold: more than so many bytes; what nobody declared is cut there (deny), or held."
    )


class KubernetesRequest(Strict):
    """Which requests to a Kubernetes API a rule is about. Every part given must hold."""

    verbs: Patterns | None = Field(
        default=None, description="Verbs as RBAC has them: get, list, watch, create, update, patch, delete, deletecollection. In an allow rule they stand for effects."
    )
    groups: Patterns | None = Field(default=None, description="Glob patterns of API groups, such as apps; core is the one without a name.")
    resources: Patterns | None = Field(default=None, description="Glob patterns of RESOURCE or RESOURCE/SUBRESOURCE, such as pods and pods/exec.")
    subresources: Patterns | None = Field(default=None, description="Glob patterns of the subresource, such as exec; a request without one matches none.")
    namespaces: Patterns | None = Field(default=None, description="Glob patterns of the namespace.")
    names: Patterns | None = Field(default=None, description="Glob patterns of the object's name.")
    paths: Patterns | None = Field(default=None, description="Glob patterns of URLs that are no resource, such as /version and /openapi/**.")
    privileged: Literal[True] | None = Field(
        default=None, description="What makes a pod reach the host or another account, or may. An allow rule by verbs needs it to permit such a thing as well."
    )
    dry_run: bool | None = Field(default=None, description="Whether the server is asked to change nothing (dryRun=All).")

    @model_validator(mode="after")
    def _consistent(self) -> KubernetesRequest:
        if self == KubernetesRequest.model_construct():
            raise ValueError("give at least one of verbs, groups, resources, subresources, namespaces, names, paths, privileged and dry_run")
        if self.paths and (self.groups or self.resources or self.subresources or self.namespaces or self.names):
            raise ValueError("paths are URLs that are no resource: give them a rule of their own")
        return self


class What(Strict):
    """Which operations a rule is about, by meaning.

    allow: *all* effects, relations and functions of the operation must be covered, and it must be fully understood if
    anything but effects is named. deny and hold: *any* suffices, and what is not understood counts as matching. mask: none,
    because a view or a function shows the same column under another name.
    """

    effects: (
        Annotated[
            frozenset[Effect],
            Field(min_length=1),
            BeforeValidator(_listed, json_schema_input_type=Effect | list[Effect]),
        ]
        | None
    ) = Field(default=None, description="Effects. Required for allow.")
    objects: (
        Annotated[
            tuple[ObjectPattern, ...],
            Field(min_length=1),
            BeforeValidator(_object_patterns, json_schema_input_type=str | list[str | ObjectPattern]),
        ]
        | None
    ) = Field(default=None, description="Objects: a glob of relation names, or name, kind and access.")
    verbs: Patterns | None = Field(default=None, description="Glob patterns of verbs (select, drop, ...), in any case.")
    functions: Patterns | None = Field(default=None, description="Glob patterns of the functions that are called.")
    http: HttpRequest | None = Field(default=None, description="HTTP requests; a rule with this is about nothing else.")
    transfer: FileTransfer | None = Field(default=None, description="Files that are moved; a rule with this is about nothing else.")
    kubernetes: KubernetesRequest | None = Field(default=None, description="Requests to a Kubernetes API; a rule with this is about nothing else.")

    @property
    def stands_for_effects(self) -> bool:
        """Whether it says in a protocol's own words what is done, so that an allow rule need not name effects."""
        http, kubernetes = self.http, self.kubernetes
        return bool((http and (http.methods or http.grpc or http.aws)) or (kubernetes and kubernetes.verbs))


_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_Hours = Annotated[str, Field(pattern=f"^{_TIME}-(?:{_TIME}|24:00)$")]
_Day = Annotated[str, Field(pattern="^(?:mon|tue|wed|thu|fri|sat|sun)(?:-(?:mon|tue|wed|thu|fri|sat|sun))?$")]


def _distinct_ends(spans: tuple[str, ...]) -> tuple[str, ...]:
    for span in spans:
        start, _, end = span.partition("-")
        if start == end:
            raise ValueError(f"{span} is empty; leave hours out to mean the whole day")
    return spans


class When(Strict):
    """At which times and in which circumstances a rule applies.

    If it cannot be told (an attribute is missing or too old, an expression fails), allow does not match; deny, hold
    and mask do.
    """

    hours: (
        Annotated[
            tuple[_Hours, ...],
            Field(min_length=1),
            BeforeValidator(_listed, json_schema_input_type=_Hours | list[_Hours]),
            AfterValidator(_distinct_ends),
        ]
        | None
    ) = Field(default=None, description="Spans HH:MM-HH:MM, the end excluded; 22:00-06:00 goes over midnight.")
    days: (
        Annotated[
            tuple[_Day, ...],
            Field(min_length=1),
            BeforeValidator(_listed, json_schema_input_type=_Day | list[_Day]),
        ]
        | None
    ) = Field(default=None, description="Days (mon) or spans of days (mon-fri), by the date at that moment.")
    timezone: str = Field(default="UTC", min_length=1, description="IANA name of the time zone of hours and days.")
    context: dict[str, Texts] = Field(default={}, description="Each named context attribute has one of the values.")
    cel: str = Field(default="", max_length=10_000, description="A CEL expression that must be true.")


class Columns(Strict):
    """Columns whose values are replaced."""

    column: Patterns
    table: _Pattern
    schema_: _Pattern = Field(default="*", alias="schema")
    database: _Pattern = "*"
    transform: str = Field(default="", description="redact, null, partial or hash; if not given, that of the mask.")


class Mask(Strict):
    """What is replaced in results and records."""

    columns: tuple[Columns, ...] = ()
    detectors: (
        Literal["all"]
        | Annotated[
            frozenset[_Pattern],
            Field(min_length=1),
            BeforeValidator(_listed, json_schema_input_type=_Pattern | list[_Pattern]),
        ]
        | None
    ) = Field(default=None, description="Content detectors by name, or all.")
    json_: (
        Annotated[
            tuple[_JsonPath, ...], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=_JsonPath | list[_JsonPath])
        ]
        | None
    ) = Field(default=None, alias="json", description="JSON paths ($.iban, $.people[*].name, $..token) in the bodies of HTTP responses.")
    kubernetes: (
        Annotated[
            tuple[Literal["secrets", "configmaps"], ...],
            Field(min_length=1),
            BeforeValidator(_listed, json_schema_input_type=Literal["secrets", "configmaps"] | list[Literal["secrets", "configmaps"]]),
        ]
        | None
    ) = Field(default=None, description="Values of Secrets (and tokens of service accounts), of ConfigMaps, as a Kubernetes API shows them.")
    transform: str = Field(default="redact", description="redact, null, partial or hash.")

    @model_validator(mode="after")
    def _something(self) -> Mask:
        if not self.columns and not self.detectors and not self.json_ and not self.kubernetes:
            raise ValueError("name columns, detectors, json or kubernetes")
        return self


class RuleForm(Strict):
    """One rule. Every rule that matches applies: deny over hold over allow; masks add up; nothing allowed is denied."""

    id: str = Field(pattern=NAME, description="Unique over all documents; it is what records and refusals name.")
    who: Who = Who()
    where: Where = Where()
    what: What = What()
    when: When = When()
    then: Action
    approvers: str = Field(default="", description="hold: the unix group that may release. It must have a member.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        le=86_400,
        strict=True,
        description="hold: seconds until it is denied; default 300.",
    )
    mask: Mask | None = Field(default=None, description="Required for mask; may be added to allow and hold.")
    reason: str = Field(default="", max_length=500, description="Why, in words for the person who meets the rule.")
    hint: str = Field(default="", max_length=500, description="What that person can do next.")

    @model_validator(mode="after")
    def _consistent(self) -> RuleForm:
        for wrong, message in self._contradictions():
            if wrong:
                raise ValueError(message)
        return self

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        hold, mask = self.then is Action.HOLD, self.then is Action.MASK
        return (
            (
                self.then is Action.ALLOW and self.what.effects is None and not self.what.stands_for_effects,
                "an allow rule must name the effects it allows (what: effects: [read, ...]), or methods (what: http: methods, grpc or aws; kubernetes: verbs)",
            ),
            (
                hold and not self.approvers,
                "a rule holds and no approver is configured: give approvers: a unix group",
            ),
            (not hold and bool(self.approvers), "approvers belongs to hold rules only"),
            (not hold and self.timeout is not None, "timeout belongs to hold rules only"),
            (
                mask and self.what != What(),
                (
                    "a mask rule is about all that a session returns, whatever the statement (a view, a function): "
                    "limit it by who, where and when, and by the columns it names"
                ),
            ),
            *self._misplaced_sizes(),
            (mask and self.mask is None, "a mask rule must say what to mask (mask: columns, detectors, json or kubernetes)"),
            (self.then is Action.DENY and self.mask is not None, "a deny rule has nothing to mask"),
        )


    def _misplaced_sizes(self) -> tuple[tuple[bool, str], ...]:
        transfer, allow = self.what.transfer, self.then is Action.ALLOW
        if transfer is None:
            return ()
        return (
            (transfer.max_size is not None and not allow, "max_size belongs to allow rules; others take size_over"),
            (transfer.size_over is not None and allow, "size_over belongs to deny and hold rules; an allow rule takes max_size"),
        )


def _one_source(value: ProviderForm) -> ProviderForm:
    if bool(value.file) == bool(value.url):
        raise ValueError("give exactly one of file and url")
    if value.url and value.max_age is None:
        raise ValueError("a url needs max_age, in seconds")
    return value


class ProviderForm(Strict):
    """Where context attributes come from."""

    attributes: tuple[Annotated[str, Field(pattern=ATTRIBUTE)], ...] = Field(min_length=1)
    file: str = Field(default="", pattern=r"^(?:/[^\x00]*)?$", description="Absolute path of a JSON or YAML mapping.")
    url: str = Field(
        default="",
        pattern=r"^(?:http://(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?/[!-~]*)?$",
        description="http on this host's loopback; answers a JSON object.",
    )
    max_age: float | None = Field(
        default=None, gt=0, strict=True, description="Seconds after which a value counts as missing."
    )


class Document(Strict):
    """One policy document. All documents of a folder make one rule set."""

    version: Literal[1]
    context: tuple[Annotated[ProviderForm, AfterValidator(_one_source)], ...] = ()
    rules: tuple[RuleForm, ...] = ()


def schema() -> dict[str, Any]:
    """Return the JSON schema of a policy document (draft 2020-12)."""
    body = Document.model_json_schema(by_alias=True)
    clean = {key: _without_null(value) for key, value in body.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **clean}


def _without_null(value: object) -> object:
    # An absent key means "any"; a key with nothing behind it is refused by the reader, so the schema must not offer it.
    if isinstance(value, list):
        return [_without_null(item) for item in value if item != {"type": "null"}]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_null(item) for key, item in value.items() if not (key == "default" and item is None)}
    choices = kept.get("anyOf")
    if isinstance(choices, list) and len(choices) == 1:
        del kept["anyOf"]
        kept |= choices[0]
    return kept
