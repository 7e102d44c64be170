"""Where settings are put while a file is read: among the told arguments, or with a reason among the unmapped."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lorakit.interop.imported import Note, Origin, Told, Unmapped
from lorakit.interop.settle import coerce
from lorakit.preset.units import shown
from lorakit.trainers.catalogue import Catalogue

__all__ = ["SECRETS", "Intake"]

#: Options whose values are shown to nobody.
SECRETS: Final = frozenset({"wandb_api_key", "huggingface_token"})
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class Intake:
    """Fills while a file is read; every setting that is offered ends in one of the lists."""

    told: dict[str, Told] = field(default_factory=dict)
    unmapped: list[Unmapped] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def take(
        self,
        name: str,
        value: Any,
        *,
        text: str = "",
        line: int | None = None,
        origin: Origin = "explicit",
        why: str = "",
        unknown: str = "the trainer has no such option",
    ) -> None:
        """One value by the name of sd-scripts' option; ``unknown`` is the reason where there is no such option."""
        flag = Catalogue.load().by_dest().get(name)
        text = text or f"{name} = {shown(value)}"
        if name in SECRETS:
            self.unmapped.append(Unmapped(name, f"{name} = •••", "a secret: keep it in the environment", line))
        elif flag is None:
            self.unmapped.append(Unmapped(name, text, unknown, line))
        else:
            try:
                self.told[name] = Told(coerce(flag, value), origin, text, line, why)
            except ValueError as error:
                self.unmapped.append(Unmapped(name, text, str(error), line))

    def default(self, name: str, value: Any, why: str) -> None:
        """A value of that trainer where the file has none."""
        if name not in self.told:
            self.take(name, value, origin="default", why=why)
            self.told[name] = Told(self.told[name].value, "default", "", None, why)

    def leave(self, name: str, value: Any, reason: str, line: int | None = None) -> None:
        """A setting that has no place in a preset."""
        hidden = any(word in name.lower() for word in ("api_key", "token_secret", "password")) or name in SECRETS
        self.unmapped.append(Unmapped(name, f"{name} = {'•••' if hidden else shown(value)}", reason, line))

    def leave_rest(
        self, settings: Mapping[str, Any], reason_of: Callable[[str], str], line_of: Callable[[str], int | None]
    ) -> None:
        """List every setting that says something and was not mentioned so far: what does not map is never dropped."""
        texts = [*(told.text for told in self.told.values()), *(f"{one.name} {one.text}" for one in self.unmapped)]
        texts += [f"{note.what} {note.why}" for note in self.notes]
        named = {word for text in texts for word in _NAME.findall(text)}
        for name, value in settings.items():
            said = value not in (None, "", False, 0, [], {}) and str(value).strip() not in {"0", "0.0"}
            if said and name not in named:
                self.leave(name, value, reason_of(name), line_of(name))

    def note(self, what: str, why: str = "", key: str = "") -> None:
        """Something to look at."""
        self.notes.append(Note(what, why, key))
