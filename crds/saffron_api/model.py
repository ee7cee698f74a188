"""The base of every API type, and rules: checks that are told once and kept twice.

A rule is written in CEL, for the API server, and in Python, for the command line, side by side, so that the same
request is refused in both places with the same sentence. A rule stands on a type (`ApiModel.rules`) when it looks at
several fields, or on one value (as metadata in `Annotated[...]`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Rule:
    """One thing that must hold of a value.

    Attributes:
        cel: the check for the API server; `self` is the value.
        message: what is allowed, as it follows "field: ".
        holds: the same check for the command line; None where only the API server can look (it knows the object as
            it was before).
        field: the field below the value that is to blame, as "storage.workspace"; empty for the value itself.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None
    field: str = ""

    def as_validation(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | {"fieldPath": f".{self.field}"} if self.field else entry

    def is_broken_by(self, value: object) -> bool:
        """Whether the Python side of the rule refuses the value."""
        return self.holds is not None and not self.holds(value)

    def as_error(self) -> PydanticCustomError:
        """The rule as pydantic's error."""
        return PydanticCustomError("rule", "{message}", {"message": self.message})

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check one value after pydantic has."""

        def check(value: object) -> object:
            if self.is_broken_by(value):
                raise self.as_error()
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the CEL side to the value's schema."""
        found = handler(schema)
        return found | {VALIDATIONS: [*found.get(VALIDATIONS, []), self.as_validation()]}


@dataclass(frozen=True)
class Unique:
    """A list whose entries differ: in one field of theirs (a map to the API server), or as a whole (a set)."""

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse a list that says the same thing twice."""

        def check(entries: Sequence[object]) -> Sequence[object]:
            names = [getattr(entry, self.key) if self.key else entry for entry in entries]
            for index, name in enumerate(names):
                if name in names[:index]:
                    error = PydanticCustomError("duplicate", "Duplicate value: {value}", {"value": str(name)})
                    raise _located("duplicate", (index,), error, name)
            return entries

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell the API server, which then refuses duplicates and merges by key."""
        found = handler(schema)
        if self.key is None:
            return found | {"x-kubernetes-list-type": "set"}
        return found | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}


class ApiModel(BaseModel):
    """The base of every API type: camelCase outside, unknown fields and NaN refused, immutable, its rules kept."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keeps_its_rules(self) -> Self:
        broken = next((rule for rule in self.rules if rule.is_broken_by(self)), None)
        if broken is not None:
            loc = tuple(broken.field.split(".")) if broken.field else ()
            raise _located(type(self).__name__, loc, broken.as_error(), self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the CEL side of the rules to the type's schema."""
        found = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            found[VALIDATIONS] = [rule.as_validation() for rule in cls.rules]
        return found


def _located(title: str, loc: tuple[int | str, ...], error: PydanticCustomError, value: object) -> ValidationError:
    """An error that pydantic reports at a place below the value that is being checked."""
    return ValidationError.from_exception_data(title, [InitErrorDetails(type=error, loc=loc, input=value)])


def problems(error: ValidationError) -> tuple[str, ...]:
    """Every problem as the API server would put it: "spec.candidates[1].groupSize: what is allowed"."""
    return tuple(f"{_path(found['loc'])}: {_words(found['type'], found['msg'])}" for found in error.errors())


def _path(loc: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")


def _words(kind: str, message: str) -> str:
    match kind:
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "Required value"
        case _:
            return message
