"""The grammar of the command line: flags, words, and their mistakes.

One small reader for both generations of calicoctl's grammar. Flags may stand anywhere; a long
one may be shortened to what is unambiguous, as docopt took it; mistakes are worded as cobra
words them, because scripts look for that. argparse would cost 40 ms of CPU to import, which is
more than everything else that `tortie --help` does.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Flag:
    """One flag.

    Attributes:
        name: long, without dashes.
        short: one letter, or several of them that mean the same.
        value: what to call its value in help; empty for a switch.
        optional: the value when none is given with `=`; None means one is needed.
        choices: the only values.
        repeats: may be given several times; its value is a list.
        is_hidden: accepted, but neither listed nor completed.
        completes: what shells complete its value with: `file`, `kind`, or a choice.
    """

    __slots__ = (
        "choices", "completes", "is_hidden", "name", "optional", "repeats", "short", "summary",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        summary: str,
        *,
        short: str = "",
        value: str = "",
        optional: str | None = None,
        choices: tuple[str, ...] = (),
        repeats: bool = False,
        is_hidden: bool = False,
        completes: str = "",
    ) -> None:
        self.name = name
        self.summary = summary
        self.short = short
        self.value = value
        self.optional = optional
        self.choices = choices
        self.repeats = repeats
        self.is_hidden = is_hidden
        self.completes = completes

    @property
    def spelled(self) -> str:
        """As help shows it: `-o, --output FORMAT`."""
        long = [f"--{self.name}"] if self.name else []
        spelled = ", ".join([*(f"-{letter}" for letter in self.short[:1]), *long])
        if self.optional is not None:
            return f"{spelled}[={self.value}]"
        return f"{spelled}{' ' + self.value if self.value else ''}"


class Command:
    """One command: what it takes, and where it is.

    Attributes:
        path: its words, such as `ipam show`.
        module: has `main(given, screen)`; imported when the command is used.
        words: the arguments that are no flags, as help shows them.
        least, most: how many of those; None means any number.
        flags: of its own; `COMMON` ones are added.
        completes: what shells complete its words with: `kind`, `resource` or nothing.
        examples: pairs of a command line (without `tortie`) and what it does.
        notes: paragraphs of the reference.
    """

    __slots__ = (
        "completes", "examples", "flags", "is_hidden", "least", "module", "most", "notes", "path",
        "summary", "words",
    )  # fmt: skip

    def __init__(
        self,
        path: str,
        module: str,
        summary: str,
        *,
        words: str = "",
        least: int = 0,
        most: int | None = 0,
        flags: tuple[Flag, ...] = (),
        completes: str = "",
        examples: tuple[tuple[str, str], ...] = (),
        notes: tuple[str, ...] = (),
        is_hidden: bool = False,
    ) -> None:
        self.path = path
        self.module = module
        self.summary = summary
        self.words = words
        self.least = least
        self.most = most
        self.flags = flags
        self.completes = completes
        self.examples = examples
        self.notes = notes
        self.is_hidden = is_hidden


class Given:
    """What a command line gave: words, and values by the long name of the flag."""

    __slots__ = ("command", "values", "words")

    def __init__(self, command: Command, words: list[str], values: dict[str, list[str]]) -> None:
        self.command = command
        self.words = words
        self.values = values

    def has(self, name: str) -> bool:
        """Whether the flag was given; of switches also whether it is on."""
        return name in self.values and self.values[name][-1] != "false"

    def text(self, name: str, default: str = "") -> str:
        """The value given last."""
        return self.values[name][-1] if name in self.values else default

    def texts(self, name: str) -> list[str]:
        return self.values.get(name, [])


class HelpWanted(Exception):
    """`--help` was among the arguments."""


def read(command: Command, flags: Sequence[Flag], argv: Sequence[str]) -> Given:
    """
    Raises:
        InvalidInput: an unknown flag, a missing value, too few or too many words.
        HelpWanted: before anything else is looked at, as far as flags are known.
    """
    reader = _Reader(flags)
    reader.read(list(argv))
    count = len(reader.words)
    if count < command.least:
        raise mistake(f"{command.words} is missing; see tortie {command.path} --help")
    if command.most is not None and count > command.most:
        extra = reader.words[command.most]
        raise mistake(f"unexpected argument {extra!r}; see tortie {command.path} --help")
    return Given(command, reader.words, reader.values)


class _Reader:
    def __init__(self, flags: Sequence[Flag]) -> None:
        self._by_name = {flag.name: flag for flag in flags}
        self._by_letter = {letter: flag for flag in flags for letter in flag.short}
        self.words: list[str] = []
        self.values: dict[str, list[str]] = {}

    def read(self, rest: list[str]) -> None:
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.words += rest
                return
            if word.startswith("--"):
                self._long(word, rest)
            elif word.startswith("-") and word != "-":
                self._short(word, rest)
            else:
                self.words.append(word)

    def _long(self, word: str, rest: list[str]) -> None:
        name, equals, value = word[2:].partition("=")
        flag = self._named(name)
        if equals or flag.optional is not None or not flag.value:
            self._put(flag, value if equals else flag.optional or "", f"--{name}", bool(equals))
        elif rest:
            self._put(flag, rest.pop(0), f"--{name}", True)
        else:
            raise mistake(f"flag needs an argument: --{name}")

    def _short(self, word: str, rest: list[str]) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter == "h" and letter not in self._by_letter:
                raise HelpWanted
            flag = self._by_letter.get(letter)
            if flag is None:
                raise mistake(f"unknown shorthand flag: {letter!r} in {word}")
            if not flag.value:
                self._put(flag, "", f"-{letter}", False)
                continue
            if letters:
                self._put(flag, letters.removeprefix("="), f"-{letter}", True)
            elif rest:
                self._put(flag, rest.pop(0), f"-{letter}", True)
            else:
                raise mistake(f"flag needs an argument: {letter!r} in {word}")
            return

    def _named(self, name: str) -> Flag:
        if name == "help":
            raise HelpWanted
        if name in self._by_name:
            return self._by_name[name]
        close = [known for known in self._by_name if name and known.startswith(name)]
        if len(close) == 1:
            return self._by_name[close[0]]
        if close:
            raise mistake(f"--{name} may be {' or '.join('--' + known for known in close)}")
        near = nearest(name, [f.name for f in self._by_name.values() if not f.is_hidden])
        hint = f"; did you mean --{near}?" if near else ""
        raise mistake(f"unknown flag: --{name}{hint}")

    def _put(self, flag: Flag, value: str, spelled: str, given: bool) -> None:
        if not flag.value:
            if given and value not in ("true", "false"):
                raise mistake(f"{spelled} is true or false, not {value!r}")
            value = value if given else "true"
        elif flag.choices and value not in flag.choices:
            choices = ", ".join(flag.choices)
            raise mistake(f"{spelled} is one of {choices}, not {value!r}")
        if flag.name in self.values and not flag.repeats:
            self.values[flag.name] = [value]
        else:
            self.values.setdefault(flag.name, []).append(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """The known word that was probably meant; empty if none is near."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return close[0] if close else ""


def mistake(message: str) -> Exception:
    from tortie.lib.errors import InvalidInput

    return InvalidInput(message)
