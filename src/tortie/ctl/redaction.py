"""Takes secrets out of what is shown to others.

In two ways, because each misses what the other finds. By *name*: whatever
stands behind a word such as `password`, in any of the ways in which files,
commands and logs say it, and PEM keys. By *value*: a `Redactor` learns the
secrets of this machine from where they are kept, and hides them wherever they
turn up, in a log line that nobody thought of.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

HIDDEN = "REDACTED"

LEARNT_AT_LEAST = 5
"""Characters: hiding shorter ones everywhere would make nonsense of the rest."""

_WORDS = r"(?:pass(?:word|wd|phrase)|secret|token|credential|private[ _.-]?key|psk|key[ _-]?data)"
_NAME = re.compile(rf"(?is).*(?:{_WORDS}|^etcdKey$|^md5$).*")
_REFERENCE = re.compile(r"(?is).*(?:file|path|ref|dir|name)$")
"""`passwordFile`, `secretName`: these say where a secret is, and are no secret."""

_PEM = re.compile(
    r"-----BEGIN [^-]*PRIVATE KEY-----.*?(-----END [^-]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_LINE = re.compile(
    rf"""(?imx)^ (?P<name> [^=:\n]*? \b [\w.-]* {_WORDS} [\w.-]* ["']? [ \t]* [=:] [ \t]*)
    (?P<value> \S.*) $"""
)
_INLINE = re.compile(
    rf"""(?ix) (?P<name> [\w.-]* {_WORDS} [\w.-]* \\? ["']? [ \t]* [=:] [ \t]*
    | --[\w-]*{_WORDS}[\w-]*[ =]
    | \b(?:password|secret)[ \t]+(?=["']) )
    (?P<value> \\?"(?:\\.|[^"\\])*\\?" | '[^']*' | [^\s,;&}}\])]+ )"""
)
_BLOCK = re.compile(
    rf"""(?imx)^ (?P<name> (?P<indent>[ ]*) (?:-[ ])? ["']? [\w.-]*{_WORDS}[\w.-]* ["']? :
    [ ]* [|>][-+\d]* [ ]*) \n (?P<value> (?: (?P=indent)[ ]+ \S.* \n? | [ ]*\n )+ )"""
)
"""A YAML block: the value is in the lines below, deeper than the name."""
_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")


def is_secret_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and not _REFERENCE.fullmatch(name)


def redacted_text(text: str) -> str:
    """Without what looks like a secret by its name or its form."""
    text = _PEM.sub(HIDDEN, text)
    text = _BLOCK.sub(lambda found: f"{found['name']}\n{found['indent']}  {HIDDEN}\n", text)
    text = _URL.sub(HIDDEN, text)
    text = _LINE.sub(_hide_value, text)
    return _INLINE.sub(_hide_value, text)


def _hide_value(found: re.Match[str]) -> str:
    name = found["name"].rstrip(" \t=:\"'\\").rpartition(" ")[2].lstrip("\"'-{[,\\")
    if found["value"] == HIDDEN or _REFERENCE.fullmatch(name):
        return found[0]
    return found["name"] + HIDDEN


def redacted(value: object) -> object:
    """The same for plain data, such as a resource."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if isinstance(inner, str) and is_secret_name(name) else redacted(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return redacted_text(value) if isinstance(value, str) else value


class Redactor:
    """Knows the secrets of this machine, and hides them in any text."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def learn(self, secret: str) -> None:
        """Hide it from now on, in each form in which it may be written."""
        for part in (secret, *secret.splitlines()):
            part = part.strip()
            if len(part) < LEARNT_AT_LEAST or part.startswith("-----"):
                continue
            escaped = json.dumps(part)[1:-1]
            self._known |= {part, escaped, quote(part), quote(part, safe="")}

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        """Of an environment: values whose names say so, and passwords in addresses."""
        for name, value in variables.items():
            if is_secret_name(name):
                self.learn(value)
            for found in _URL.findall(value):
                self.learn(found.partition(":")[2])

    def learn_plain(self, value: object) -> None:
        """Of parsed YAML or JSON."""
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, str) and is_secret_name(str(name)):
                    self.learn(inner)
                else:
                    self.learn_plain(inner)
        elif isinstance(value, list):
            for item in value:
                self.learn_plain(item)
        elif isinstance(value, str):
            self.learn_variables({"": value})

    def learn_file(self, path: Path) -> None:
        """Whatever it is, YAML, JSON, INI or variables; what it is not teaches nothing."""
        try:
            text = path.read_text(errors="replace")
        except OSError:
            return
        for found in _PEM.finditer(text):
            self.learn(found[0])
        self.learn_variables(
            {
                name.strip().removeprefix("export "): value.strip().strip("'\"")
                for name, equals, value in (line.partition("=") for line in text.splitlines())
                if equals
            }
        )
        ini = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            ini.read_string(text)
        except configparser.Error:
            pass
        else:
            for section in ini.sections():
                self.learn_variables(dict(ini[section]))
        import yaml

        try:
            for document in yaml.safe_load_all(text):
                self.learn_plain(document)
        except (yaml.YAMLError, ValueError, RecursionError):
            return

    def learn_keys(self, paths: Iterable[Path]) -> None:
        """Files that are secrets as a whole."""
        for path in paths:
            try:
                self.learn(path.read_text(errors="replace"))
            except OSError:
                continue

    def hide(self, text: str) -> str:
        text = redacted_text(text)
        # The longest first: one secret may be the beginning of another.
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return text
