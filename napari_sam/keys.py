"""Keys of the widget. They are actions of napari's own, so its preferences list and rebind them.

napari 0.8 and 0.9 ignore the key bindings of a plugin's manifest; what is in its preferences, under
Shortcuts, are the actions of its action manager. A class of ours holds them there, and the keys
that it says are bound to the viewer and the layers of an annotation, which come before those of
all layers of a kind.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

ACTIONS = {
    "segment": ("S", "ask the model again"),
    "follow": ("Shift-S", "follow it through the volume"),
    "commit": ("C", "make the mask an object"),
    "toggle": ("T", "points on the object, or beside it"),
    "another": ("M", "the next of the model's masks"),
    "clear": ("Shift-C", "drop all prompts and the mask"),
    "undo": ("Control-Z", "take the last step back"),
    "redo": ("Control-Shift-Z", "and forth again"),
}
"""What a key calls, a method of `Annotation`: its key if nobody chose another, and what it does."""
Call = Callable[[str], None]
_OPEN: list[weakref.ref[Any]] = []
"""Who is called when an action is started by another way than its key; the newest last."""


def _manager() -> Any:
    from napari.utils.action_manager import action_manager

    return action_manager


@functools.cache
def register() -> None:
    """Let napari know the actions, once; keys that the user chose in an earlier session hold."""
    from napari.settings import get_settings
    from napari.utils.key_bindings import KeymapProvider

    class SegmentAnything(KeymapProvider):
        """Whose actions they are, to napari."""

    manager, chosen = _manager(), get_settings().shortcuts.shortcuts
    for name, (key, text) in ACTIONS.items():
        full = f"samplat:{name}"
        manager.register_action(full, _starter(name), f"Segment Anything: {text}", SegmentAnything)
        if full not in chosen and not manager._shortcuts.get(full):
            manager.bind_shortcut(full, key)


def _starter(name: str) -> Callable[[], None]:
    def start() -> None:
        for each in reversed(_OPEN):
            if (bound := each()) is not None:
                bound.call(name)
                return

    start.__name__ = f"samplat_{name}"
    return start


def keys_of(name: str) -> list[Any]:
    """The keys of an action as they are now."""
    return list(_manager()._shortcuts.get(f"samplat:{name}", ()))


def told() -> str:
    """All keys and what they do, a line each."""
    from napari.utils.interactions import Shortcut

    lines = []
    for name, (_, text) in ACTIONS.items():
        shown = " or ".join(Shortcut(key).platform for key in keys_of(name))
        lines.append(f"{shown or '(no key)'}:  {text}")
    return "\n".join(lines)


class Bound:
    """Keys that are bound to a viewer and layers, and follow what the user chooses.

    Args:
        owners: what has the keys.
        call: what they do.
        changed: called when they are others.
    """

    def __init__(self, owners: Iterable[Any], call: Call, changed: Callable[[], None]) -> None:
        self.call, self._changed = call, changed
        self._owners, self._keys = tuple(owners), []  # type: tuple[Any, ...], list[Any]
        self._bind()
        _manager().events.shortcut_changed.connect(self._on_changed)
        _OPEN.append(weakref.ref(self))

    def _bind(self) -> None:
        for name in ACTIONS:
            for key in keys_of(name):
                self._keys.append(key)
                for owner in self._owners:
                    owner.bind_key(key, lambda _, name=name: self.call(name), overwrite=True)

    def _unbind(self) -> None:
        for key in self._keys:
            for owner in self._owners:
                owner.bind_key(key, None, overwrite=True)
        self._keys.clear()

    def _on_changed(self, event: Any) -> None:
        if str(event.name).startswith("samplat:"):
            self._unbind()
            self._bind()
            self._changed()

    def release(self) -> None:
        """The keys mean what they meant before."""
        _manager().events.shortcut_changed.disconnect(self._on_changed)
        self._unbind()
        _OPEN[:] = [each for each in _OPEN if each() not in (None, self)]
