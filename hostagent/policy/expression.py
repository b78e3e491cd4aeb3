"""CEL expressions: compiled and type-checked at load, evaluated to yes, no or *cannot tell*.

cel-expr-python answers an error (a missing key, a type that does not fit) with a truthy string, so only ``value() is True``
is yes and only ``value() is False`` is no. Every variable has its full dotted name, so that what an expression reads is known
at load: an expression that names a context attribute which is missing cannot tell, even if the other side of an ``||`` could;
``has(context.x)`` is refused by the type check for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostagent.model.identity import Identity
    from hostagent.model.operation import Operation
    from hostagent.model.target import Target

_CONTEXT = "context."
_PARAMETERS = "operation.parameters"

_VARIABLES: dict[str, str] = {
    "workload": "string",
    "identity.issuer": "string",
    "identity.subject": "string",
    "identity.purpose": "string",
    "identity.groups": "list(string)",
    "identity.claims": "map(string, dyn)",
    "target.name": "string",
    "target.protocol": "string",
    "target.labels": "map(string, string)",
    "operation.verb": "string",
    "operation.effects": "list(string)",
    "operation.relations": "list(string)",
    "operation.attributes": "map(string, string)",
    _PARAMETERS: "list(dyn)",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. ``reads`` are the names of the variables it can read."""

    text: str
    reads: frozenset[str]
    _evaluate: Callable[[Mapping[str, object]], object]

    @property
    def context(self) -> frozenset[str]:
        """The context attributes that it can read."""
        return frozenset(name.removeprefix(_CONTEXT) for name in self.reads if name.startswith(_CONTEXT))

    @property
    def volatile(self) -> bool:
        """Whether it reads anything that may differ for the same operation: bind values or context."""
        return bool(self.context) or _PARAMETERS in self.reads

    def evaluate(
        self,
        identity: Identity,
        workload: str,
        target: Target,
        operation: Operation,
        context: Mapping[str, str | None],
    ) -> bool | None:
        """Return True or False as the expression says, None if it cannot tell.

        Args:
            identity: who; claims are converted to CEL values.
            workload: name of the workload.
            target: where.
            operation: what; effects are the judged ones.
            context: text of each attribute in ``self.context``, None if missing or too old.
        """
        values: dict[str, object] = {}
        for name in self.reads:
            if name.startswith(_CONTEXT):
                known = context.get(name.removeprefix(_CONTEXT))
                if known is None:
                    return None
                values[name] = known
            else:
                values[name] = _value(name, identity, workload, target, operation)
        answer = self._evaluate(values)
        if answer is True or answer is False:
            return bool(answer)
        return None


def compile_expression(text: str, attributes: frozenset[str]) -> Expression:
    """Return ``text`` compiled against the variables of the policy and the declared context ``attributes``.

    Raises:
        ValueError: it does not compile, names something unknown, or is not a boolean; the message is one line.
    """
    from cel_expr_python import cel  # 50 MB of shared object: only a rule set that uses CEL pays for it

    types = {
        "string": cel.Type.STRING,
        "list(string)": cel.Type.List(cel.Type.STRING),
        "list(dyn)": cel.Type.List(cel.Type.DYN),
        "map(string, dyn)": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
        "map(string, string)": cel.Type.Map(cel.Type.STRING, cel.Type.STRING),
    }
    variables = {name: types[kind] for name, kind in _VARIABLES.items()}
    variables |= {_CONTEXT + attribute: cel.Type.STRING for attribute in attributes}

    def compiled(known: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the library is untyped
        try:
            return cel.NewEnv(variables=known).compile(text)
        except (RuntimeError, ValueError) as error:
            raise ValueError(_first_line(str(error))) from error

    program = compiled(variables)
    if program.return_type() != cel.Type.BOOL:
        raise ValueError(f"must be true or false, is {program.return_type().name()}; compare it with a value")

    def reads(name: str) -> bool:
        try:
            compiled({other: kind for other, kind in variables.items() if other != name})
        except ValueError:
            return True
        return False

    def evaluate(values: Mapping[str, object]) -> object:
        try:
            return program.eval(data=values).value()
        except (RuntimeError, ValueError, TypeError, OverflowError):
            # Such as an exhausted iteration budget: not an answer.
            return None

    return Expression(text, frozenset(filter(reads, variables)), evaluate)


def _first_line(message: str) -> str:
    line = message.strip().splitlines()[0] if message.strip() else "does not compile"
    return line.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: <input>:").strip()


def _value(name: str, identity: Identity, workload: str, target: Target, operation: Operation) -> object:
    head, _, field = name.partition(".")
    if head == "workload":
        return workload
    if head == "operation":
        return _operation_value(field, operation)
    found = getattr(identity if head == "identity" else target, field)
    return sorted(found) if isinstance(found, frozenset) else plain(found)


def _operation_value(field: str, operation: Operation) -> object:
    if field == "effects":
        return sorted(operation.judged_effects)
    if field == "relations":
        return [resource.name for resource in operation.resources if resource.kind == "relation"]
    return plain(getattr(operation, field))


def plain(value: object) -> object:
    """Return ``value`` built of the dict, list and scalar types that CEL takes; what is none of them becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [plain(item) for item in value]
    return value if isinstance(value, str | bool | int | float | bytes) else None
