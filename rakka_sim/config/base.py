"""The base of every configuration table, and how a validation error becomes one for people; no table may be here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rakka_sim.errors import InputError, ScenarioError

# Thirty years. A clock that has come so far still tells tenths of a microsecond apart; much further, tokens would
# share an instant.
MAX_SECONDS = 1e9
Seconds = Annotated[float, Field(ge=0.0, le=MAX_SECONDS)]
PositiveSeconds = Annotated[float, Field(gt=0.0, le=MAX_SECONDS)]
Rate = Annotated[float, Field(ge=1e-6, le=1e9)]


class Table(BaseModel):
    """A configuration table: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


T = TypeVar("T", bound=Table)


def _dotted(file: str, loc: Iterable[object]) -> str:
    # Pydantic puts the tag of a union between the keys; a tag is no key of the user's file, but it does no harm there.
    key = ".".join(str(part) for part in loc)
    return f"{file}: {key}" if key else file


def _allowed(problem: Mapping[str, Any], known: str) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"no such key here; keys: {known}" if known else "no such key here"
    if kind == "missing":
        return "this key is required"
    if kind in {"literal_error", "enum", "union_tag_invalid"}:
        return str(context.get("expected", context.get("expected_tags", problem["msg"])))
    return (
        str(problem["msg"])
        .removeprefix("Value error, ")
        .removeprefix("Input should be ")
        .removeprefix("Assertion failed, ")
    )


def _keys_at(table: type[BaseModel], loc: tuple[object, ...]) -> str:
    """The keys allowed where `loc` points, as far as the types say; '' where a union hides them."""
    here: Any = table
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        fields = getattr(here, "model_fields", {})
        field = next((f for n, f in fields.items() if part in (n, f.alias)), None)
        if field is None:
            continue
        nested = [t for t in _types_in(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if len(nested) != 1:
            named = [t for t in nested if loc[-2] in _tags(t)]
            nested = named or nested
        here = nested[0] if nested else None
    fields = getattr(here, "model_fields", {})
    return ", ".join(f.alias or n for n, f in fields.items())


def _types_in(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types_in(inner)


def _tags(table: type[BaseModel]) -> tuple[object, ...]:
    kind = table.model_fields.get("kind")
    return tuple(getattr(kind.annotation, "__args__", ())) if kind else ()


def parse(table: type[T], data: Any, file: str) -> T:
    """`data` as a table; raises ScenarioError with every problem, each by its key, value and what is allowed."""
    try:
        return table.model_validate(data)
    except ValidationError as error:
        raise scenario_error(table, error, file) from None


def scenario_error(table: type[BaseModel], error: ValidationError, file: str) -> ScenarioError:
    """All problems of a validation as one error."""
    problems, found_in = [], error.errors(include_url=False)
    faulty = [problem["loc"] for problem in found_in]
    for problem in found_in:
        loc = problem["loc"]
        if problem["type"] == "too_short" and any(at[: len(loc)] == loc and at != loc for at in faulty):
            continue  # what was faulty was left out before they were counted
        missing = problem["type"] == "missing"
        found = "(nothing)" if missing else problem.get("input")
        problems.append(InputError(_dotted(file, loc), found, _allowed(problem, _keys_at(table, loc))))
    first = problems[0]
    return ScenarioError(first.where, first.value, first.allowed, problems)
