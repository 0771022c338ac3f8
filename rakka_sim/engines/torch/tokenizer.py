"""Text to token ids and back: a model's own `tokenizer.json` with its chat template, or bytes. No tensor is here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rakka_sim.errors import BadRequest, InputError

HALF = "\N{REPLACEMENT CHARACTER}"  # how a decoder writes a character of which tokens are missing
Messages = Sequence[tuple[str, str]]


class Tokenizer(Protocol):
    """What an engine's clients need of a vocabulary."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an output."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...

    def chat(self, messages: Messages) -> list[int]:
        """The prompt of a conversation of (role, content) pairs, ready for the assistant's next word."""
        ...


class ByteTokenizer:
    """Each byte of UTF-8 is a token: for models whose weights are random, and whose words mean nothing anyway."""

    eos_ids: tuple[int, ...] = ()

    def encode(self, text: str) -> list[int]:
        """Its bytes."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """What they spell; ids above 255 spell nothing."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")

    def chat(self, messages: Messages) -> list[int]:
        """One line a message."""
        return self.encode("".join(f"{role}: {content}\n" for role, content in messages) + "assistant: ")


class FileTokenizer:
    """The tokenizer of a model's folder; raises InputError if there is none that can be read."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as Loaded

        file = folder / "tokenizer.json"
        try:
            self._loaded = Loaded.from_file(str(file))
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(str(file), str(error), "a readable tokenizer.json") from error
        self._settings = _json(folder / "tokenizer_config.json")
        self._template = _template(folder, self._settings)
        self.eos_ids = _eos_ids(folder, self._settings, self._loaded.token_to_id)

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the model expects around a text."""
        ids: list[int] = self._loaded.encode(text).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens are left out."""
        text: str = self._loaded.decode(list(tokens), skip_special_tokens=True)
        return text

    def chat(self, messages: Messages) -> list[int]:
        """By the model's template; raises BadRequest for messages that it refuses."""
        if self._template is None:
            raise BadRequest("this model has no chat template: send a prompt, not messages")
        said = [{"role": role, "content": content} for role, content in messages]
        special = {name: _text_of(self._settings.get(name)) for name in ("bos_token", "eos_token")}
        text = _rendered(self._template, messages=said, add_generation_prompt=True, **special)
        ids: list[int] = self._loaded.encode(text, add_special_tokens=False).ids
        return ids


class IncrementalText:
    """Text of one sequence as its tokens come (`core.feed.Detokenizer`)."""

    __slots__ = ("_decode", "_read", "_start", "_tokens")

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._start = 0  # where the window begins: what a token looks like depends on the one before it
        self._read = 0  # up to here the text has been given out

    def add(self, tokens: list[int], final: bool = False) -> str:
        """What these tokens add to the text; a character waits until all of its tokens are there, or none will come."""
        self._tokens += tokens
        before = self._decode(self._tokens[self._start : self._read])
        text = self._decode(self._tokens[self._start :])
        if (text.endswith(HALF) and not final) or len(text) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text[len(before) :]


def tokenizer_of(folder: Path | None) -> Tokenizer:
    """The tokenizer of a model's folder; bytes for a model without one."""
    return FileTokenizer(folder) if folder is not None and (folder / "tokenizer.json").exists() else ByteTokenizer()


def _json(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(file), str(error), "a JSON object") from error
    return found if isinstance(found, dict) else {}


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    given = settings.get("chat_template")
    if isinstance(given, list):  # several, by name
        given = next((one.get("template") for one in given if one.get("name") == "default"), None)
    return given if isinstance(given, str) else None


def _text_of(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""


def _eos_ids(folder: Path, settings: Mapping[str, Any], id_of: Callable[[str], int | None]) -> tuple[int, ...]:
    """By the generation config, which may name several; else by the model's; else by the tokenizer's."""
    for file in ("generation_config.json", "config.json"):
        given = _json(folder / file).get("eos_token_id")
        if given is not None:
            return tuple(given) if isinstance(given, list) else (given,)
    found = id_of(_text_of(settings.get("eos_token")))
    return () if found is None else (found,)


def _rendered(template: str, **variables: Any) -> str:
    """Templates come from whoever made the model: they run in a sandbox."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise BadRequest(reason)

    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    world.globals["raise_exception"] = refuse
    try:
        return world.from_string(template).render(**variables)
    except TemplateError as error:
        raise BadRequest(f"the chat template refuses these messages: {error}") from error
