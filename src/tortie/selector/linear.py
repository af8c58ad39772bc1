"""The label index by brute force: every selector against every item, after every change.

The oracle that `index.LabelIndex` is tested against, so it shares none of its reasoning.
"""

from collections.abc import Mapping
from typing import Generic

from tortie.selector.index import Item, Labels, Listener, Selector
from tortie.selector.normal import uses_global
from tortie.selector.syntax import Node


class LinearIndex(Generic[Selector, Item]):
    """The same calls and the same events as `LabelIndex`, in no promised order."""

    def __init__(
        self,
        on_match_started: Listener[Selector, Item],
        on_match_stopped: Listener[Selector, Item],
    ) -> None:
        self._on_match_started = on_match_started
        self._on_match_stopped = on_match_stopped
        self._items: dict[Item, tuple[Labels, tuple[str, ...]]] = {}
        self._parents: dict[str, Labels] = {}
        self._selectors: dict[Selector, Node] = {}
        self._matches: set[tuple[Selector, Item]] = set()

    def set_item(self, item: Item, labels: Labels, parents: tuple[str, ...] = ()) -> None:
        self._items[item] = (labels, parents)
        self._compare()

    def remove_item(self, item: Item) -> None:
        self._items.pop(item, None)
        self._compare()

    def set_parent(self, parent: str, labels: Labels) -> None:
        self._parents[parent] = labels
        self._compare()

    def remove_parent(self, parent: str) -> None:
        self._parents.pop(parent, None)
        self._compare()

    def set_selector(self, selector: Selector, node: Node) -> None:
        self._selectors[selector] = node
        self._compare()

    def remove_selector(self, selector: Selector) -> None:
        self._selectors.pop(selector, None)
        self._compare()

    def items_matching(self, selector: Selector) -> list[Item]:
        return [item for matching, item in self._matches if matching == selector]

    def selectors_matching(self, item: Item) -> list[Selector]:
        return [selector for selector, matched in self._matches if matched == item]

    def _compare(self) -> None:
        before, self._matches = self._matches, self._current()
        for selector, item in before - self._matches:
            self._on_match_stopped(selector, item)
        for selector, item in self._matches - before:
            self._on_match_started(selector, item)

    def _current(self) -> set[tuple[Selector, Item]]:
        return {
            (selector, item)
            for selector, node in self._selectors.items()
            if not uses_global(node)
            for item in self._items
            if node.matches(self._effective(item))
        }

    def _effective(self, item: Item) -> Mapping[str, str]:
        labels, parents = self._items[item]
        effective = dict(labels)
        for parent in parents:
            for label, value in self._parents.get(parent, {}).items():
                effective.setdefault(label, value)
        return effective
