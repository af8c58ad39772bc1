"""The packet's way and the ruleset in docs/design/nftables.md are those of today."""

from pathlib import Path

import pytest
from tests.oracle import walkthrough
from tests.oracle.paper import without_sysctls


def test_the_document_shows_what_is_rendered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_sysctls(monkeypatch, tmp_path)
    text = walkthrough.DOCUMENT.read_text()
    for name, block in walkthrough.blocks().items():
        assert walkthrough.in_document(text, name) == block, (
            "write it anew: python -m tests.oracle.walkthrough"
        )
