"""Settings as they are typed: NAME=VALUE changes of a frozen dataclass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from samplat import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def changed(plain: Settings, changes: Iterable[str]) -> Settings:
    """Settings with changes; a value has the type of the one that it replaces.

    Args:
        plain: an instance of a frozen dataclass.
        changes: NAME=VALUE each.

    Raises:
        InputError: an unknown name, or a value of another type.
    """
    known = vars(plain)
    values: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise InputError(f"unknown recipe entry {name!r}; known are {', '.join(known)}")
        values[name] = _parsed(name, value, type(known[name]))
    return replace(plain, **values)


def _parsed(name: str, value: str, kind: type) -> object:
    words = {"true": True, "false": False}
    try:
        parsed: object = words[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as error:
        raise InputError(f"recipe entry {name} must be {kind.__name__}, got {value!r}") from error
    return parsed
