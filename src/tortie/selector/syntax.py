"""The selector language: text to nodes, and nodes that match labels.

Grammar, the same language as Calico's (whitespace is space and tab, nothing else):

    root   := "" | either
    either := both { "||" both }
    both   := unary { "&&" unary }
    unary  := { "!" } ( "has(" LABEL ")" | "all(" ")" | "global(" ")"
                      | "(" either ")" | LABEL comparison )
    comparison := ( "==" | "!=" ) STRING
                | ( "contains" | "starts" "with" | "ends" "with" ) STRING
                | ( "in" | "not" "in" ) "{" [ STRING { "," STRING } [ "," ] ] "}"
    LABEL  := [A-Za-z0-9_./-]{1,512}
    STRING := '"' no '"' '"'  |  "'" no "'" "'"        without any escapes

The words of `comparison` are operators only right after a label, and need no space between
their parts (`startswith`, `notin`); everywhere else they are labels like any other. `has`,
`all` and `global` are calls only when the parenthesis follows at once.

Selectors come from tenants, so `parse` takes linear time and bounds text, depth and sets.

Source: Calico, libcalico-go/lib/selector/tokenizer/tokenizer.go and parser/parser.go.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from sys import intern
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

import msgspec

from tortie.lib.errors import InvalidInput

LABEL_MAX_CHARACTERS = 512
"""Calico's bound on a label's name inside a selector."""

CACHED_SELECTORS = 4096
"""How many texts `compile_selector` remembers; a few MiB at the API's 1024 characters each."""

Labels: TypeAlias = Mapping[str, str]


class SelectorSyntax(InvalidInput):
    """The text is not a selector; `column` is 1-based and counts characters."""

    def __init__(self, column: int, expected: str) -> None:
        super().__init__(f"selector, column {column}: expected {expected}")
        self.column = column
        self.expected = expected


class Limits(NamedTuple):
    """What a selector may cost us."""

    text_bytes: int
    depth: int
    """Parentheses within parentheses, and likewise `!` after `!`."""
    set_items: int
    """Strings in one `{…}`, before duplicates are dropped."""


FOREIGN = Limits(text_bytes=8 * 1024, depth=32, set_items=4096)
"""For text from outside. The API itself stops at 1024 characters."""

GENEROUS = Limits(text_bytes=64 * 1024, depth=72, set_items=4096)
"""For canonical text, which spells out the spaces and parentheses that its source left out.

One parenthesis of a source may become two, as in `(a || b && (…))`; that, and less than twice
the bytes, is the most that canonical text grows.
"""


class Node(Protocol):
    """One term of a selector: immutable, hashable, equal only to a node of its own class."""

    def matches(self, labels: Labels) -> bool: ...


# The nodes are structs because NamedTuples of different classes compare equal:
# `k == "v"` would equal `k != "v"`, and `all()` would equal `global()`.


class All(msgspec.Struct, frozen=True, gc=False):
    """`all()`, and blank text."""

    def matches(self, labels: Labels) -> bool:
        return True


class Global(msgspec.Struct, frozen=True, gc=False):
    """`global()`: "what is in no namespace", for a rule's namespaceSelector and nothing else.

    It says nothing about labels, so it matches none of them; whoever supports it looks for this
    class before matching. It may stand only alone: under a `!` it would match everything, which
    is why the index refuses to match any selector that `normal.uses_global`.
    """

    def matches(self, labels: Labels) -> bool:
        return False


class Has(msgspec.Struct, frozen=True, gc=False):
    """`has(label)`: present, with any value, be it empty."""

    label: str

    def matches(self, labels: Labels) -> bool:
        return self.label in labels


class Equals(msgspec.Struct, frozen=True, gc=False):
    """`label == "value"`: present, and exactly that."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) == self.value


class NotEquals(msgspec.Struct, frozen=True, gc=False):
    """`label != "value"`: absent, or anything else."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) != self.value


class In(msgspec.Struct, frozen=True, gc=False):
    """`label in {…}`: present, and one of those."""

    label: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) in self.values


class NotIn(msgspec.Struct, frozen=True, gc=False):
    """`label not in {…}`: absent, or none of those."""

    label: str
    values: frozenset[str]

    def matches(self, labels: Labels) -> bool:
        return labels.get(self.label) not in self.values


class Contains(msgspec.Struct, frozen=True, gc=False):
    """`label contains "part"`: present, with `part` somewhere in it."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and self.value in actual


class StartsWith(msgspec.Struct, frozen=True, gc=False):
    """`label starts with "prefix"`: present, and begins so."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and actual.startswith(self.value)


class EndsWith(msgspec.Struct, frozen=True, gc=False):
    """`label ends with "suffix"`: present, and ends so."""

    label: str
    value: str

    def matches(self, labels: Labels) -> bool:
        actual = labels.get(self.label)
        return actual is not None and actual.endswith(self.value)


class Not(msgspec.Struct, frozen=True, gc=False):
    """`!term`. The parser never puts one Not directly into another."""

    term: Node

    def matches(self, labels: Labels) -> bool:
        return not self.term.matches(labels)


class Both(msgspec.Struct, frozen=True, gc=False):
    """`(a && b && …)`: two terms or more, in the order written."""

    terms: tuple[Node, ...]

    def matches(self, labels: Labels) -> bool:
        for term in self.terms:  # noqa: SIM110  (half the time of all() with a generator)
            if not term.matches(labels):
                return False
        return True


class Either(msgspec.Struct, frozen=True, gc=False):
    """`(a || b || …)`: two terms or more, in the order written."""

    terms: tuple[Node, ...]

    def matches(self, labels: Labels) -> bool:
        for term in self.terms:  # noqa: SIM110  (half the time of any() with a generator)
            if term.matches(labels):
                return True
        return False


def parse(text: str, limits: Limits = FOREIGN) -> Node:
    """Parse one selector; blank text selects everything.

    Raises:
        SelectorSyntax: with the column of the first token that cannot fit, or of the first
            character over a limit.
    """
    _check_size(text, limits.text_bytes)
    parser = _Parser(text, limits)
    if parser.take("end"):
        return All()
    node = parser.either()
    parser.expect("end", "&&, || or the end of the selector")
    return node


@lru_cache(maxsize=CACHED_SELECTORS)
def compile_selector(text: str) -> Node:
    """Like `parse`, and the same node again for the same text, while it is remembered.

    Raises:
        SelectorSyntax: as `parse`; mistakes are not remembered.
    """
    return parse(text)


def _check_size(text: str, limit: int) -> None:
    expected = f"at most {limit} bytes"
    if len(text) > limit:
        raise SelectorSyntax(limit + 1, expected)
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, which no id could be made of
        raise SelectorSyntax(error.start + 1, "valid Unicode") from error
    if len(encoded) > limit:
        fitting = encoded[:limit].decode(errors="ignore")
        raise SelectorSyntax(len(fitting) + 1, expected)


class _Token(NamedTuple):
    kind: str
    """"call", "label", "string" or "end"; an operator or a mark is its own kind."""
    text: str
    """The label, the string without its quotes, or the word before "(" of a call."""
    column: int


_GAP = re.compile(r"[ \t]*")
_TOKEN = re.compile(
    r"""(?P<call>has|all|global)\(
    | (?P<label>[A-Za-z0-9_./-]+)
    | "(?P<double>[^"]*)" | '(?P<single>[^']*)'
    | (?P<mark> == | != | && | \|\| | [(){},!] )""",
    re.VERBOSE,
)
_OPERATOR = re.compile(
    r"(?P<contains>contains)|(?P<starts>starts[ \t]*with)|(?P<ends>ends[ \t]*with)"
    r"|(?P<notin>not[ \t]*in)|(?P<in>in)"
)


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    after_label = False
    while True:
        position = _end_of(_GAP.match(text, position))
        column = position + 1
        if position == len(text):
            yield _Token("end", "", column)
            return
        found = _OPERATOR.match(text, position) if after_label else None
        if found:
            token = _Token(found.lastgroup or "", found[0], column)
        else:
            found = _TOKEN.match(text, position)
            if found is None:
                raise SelectorSyntax(column, _what_was_meant(text[position]))
            token = _read(found, column)
        after_label = token.kind == "label"
        position = found.end()
        yield token


def _end_of(gap: re.Match[str] | None) -> int:
    assert gap is not None  # the pattern matches the empty string too
    return gap.end()


def _read(found: re.Match[str], column: int) -> _Token:
    group = found.lastgroup
    assert group is not None  # every alternative of the pattern is a group
    content = found[group]
    if group == "mark":
        return _Token(content, content, column)
    if group in ("double", "single"):
        return _Token("string", intern(content), column)
    if group == "label" and len(content) > LABEL_MAX_CHARACTERS:
        raise SelectorSyntax(
            column + LABEL_MAX_CHARACTERS, f"a label of at most {LABEL_MAX_CHARACTERS} characters"
        )
    return _Token(group, intern(content), column)


def _what_was_meant(character: str) -> str:
    if character in "\"'":
        return f"a closing {character} for the string that starts here"
    if character in "=&|":
        return character * 2
    return f"a label, a string or an operator instead of {character!r}"


_STRING_OPERATORS: dict[str, Callable[[str, str], Node]] = {
    "==": Equals,
    "!=": NotEquals,
    "contains": Contains,
    "starts": StartsWith,
    "ends": EndsWith,
}
_SET_OPERATORS: dict[str, Callable[[str, frozenset[str]], Node]] = {"in": In, "notin": NotIn}


class _Parser:
    """Recursive descent with one token of look-ahead, one method for each grammar rule."""

    def __init__(self, text: str, limits: Limits) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._limits = limits
        self._depth = 0

    def take(self, kind: str) -> _Token | None:
        """The next token if it is of that kind, and then move on."""
        token = self._next
        if token.kind != kind:
            return None
        if kind != "end":
            self._next = next(self._tokens)
        return token

    def expect(self, kind: str, expected: str) -> _Token:
        return self.take(kind) or self._refuse(expected)

    def either(self) -> Node:
        terms = [self.both()]
        while self.take("||"):
            terms.append(self.both())
        return terms[0] if len(terms) == 1 else Either(tuple(terms))

    def both(self) -> Node:
        terms = [self.unary()]
        while self.take("&&"):
            terms.append(self.unary())
        return terms[0] if len(terms) == 1 else Both(tuple(terms))

    def unary(self) -> Node:
        negations = 0
        while self._next.kind == "!":
            if negations == self._limits.depth:
                self._refuse(f"at most {self._limits.depth} times '!' in a row")
            self.take("!")
            negations += 1
        term = self.operand()
        return _negated(term) if negations % 2 else term

    def operand(self) -> Node:
        if self._next.kind == "(":
            return self.group()
        if call := self.take("call"):
            return self.call(call.text)
        label = self.expect("label", "a label, has(, all(, global(, ! or (")
        return self.comparison(label.text)

    def group(self) -> Node:
        if self._depth == self._limits.depth:
            self._refuse(f"at most {self._limits.depth} nested parentheses")
        self.take("(")
        self._depth += 1
        inside = self.either()
        self._depth -= 1
        self.expect(")", "&&, || or )")
        return inside

    def call(self, name: str) -> Node:
        label = self.expect("label", "a label").text if name == "has" else ""
        self.expect(")", ")")
        if name == "has":
            return Has(label)
        return All() if name == "all" else Global()

    def comparison(self, label: str) -> Node:
        for kind, string_node in _STRING_OPERATORS.items():
            if self.take(kind):
                return string_node(label, self.string())
        for kind, set_node in _SET_OPERATORS.items():
            if self.take(kind):
                return set_node(label, self.string_set())
        return self._refuse(
            "==, !=, in, not in, contains, starts with or ends with after the label"
        )

    def string(self) -> str:
        return self.expect("string", "a quoted string").text

    def string_set(self) -> frozenset[str]:
        self.expect("{", "{")
        values: list[str] = []
        while value := self.take("string"):
            if len(values) == self._limits.set_items:
                raise SelectorSyntax(value.column, f"at most {len(values)} strings in a set")
            values.append(value.text)
            if not self.take(","):
                break
        self.expect("}", "a quoted string, a comma or }")
        return frozenset(values)

    def _refuse(self, expected: str) -> NoReturn:
        raise SelectorSyntax(self._next.column, expected)


def _negated(term: Node) -> Node:
    """So that `!(!x)` is `x`, just as `!!x` is, and the canonical text reads back as written."""
    return term.term if isinstance(term, Not) else Not(term)
