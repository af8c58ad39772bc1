"""`-l`: kubectl's short form of label selectors, or Calico's own.

app=web,tier!=db,env in (a,b),role,!old        kubectl
app == 'web' && has(role)                      Calico
"""

import re

from tortie.lib.errors import InvalidInput
from tortie.selector import syntax
from tortie.selector.syntax import All, Both, Equals, Has, In, Node, Not, NotEquals, NotIn

_KEY = r"(?P<key>[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?)"
_EQUAL = re.compile(rf"{_KEY}\s*(?P<sign>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)")
_SET = re.compile(rf"{_KEY}\s+(?P<sign>in|notin)\s+\((?P<values>[-A-Za-z0-9_.,\s]*)\)")
_HAS = re.compile(rf"(?P<sign>!?)\s*{_KEY}")
_COMMA = re.compile(r",(?![^()]*\))")


def parse(text: str) -> Node:
    """
    Raises:
        InvalidInput: it is neither form.
    """
    terms = [_term(part.strip()) for part in _COMMA.split(text)]
    found = [term for term in terms if term is not None]
    if len(found) == len(terms):
        return found[0] if len(found) == 1 else Both(tuple(found))
    if not text.strip():
        return All()
    try:
        return syntax.parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"--selector: {error}") from None


def _term(text: str) -> Node | None:
    if match := _EQUAL.fullmatch(text):
        made = NotEquals if match["sign"] == "!=" else Equals
        return made(match["key"], match["value"])
    if match := _SET.fullmatch(text):
        values = frozenset(value.strip() for value in match["values"].split(","))
        return (In if match["sign"] == "in" else NotIn)(match["key"], values)
    if (match := _HAS.fullmatch(text)) and text not in ("all",):
        return Not(Has(match["key"])) if match["sign"] else Has(match["key"])
    return None
