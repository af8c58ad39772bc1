"""Files are replaced whole, or stay as they were."""

from pathlib import Path

import pytest

from tortie.lib.errors import Unavailable
from tortie.lib.files import replace_file


def test_the_file_has_the_content_and_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content, mode in ((b"one", 0o600), (b"two", 0o644)):
        replace_file(path, content, mode)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o7777 == mode
    assert list(path.parent.iterdir()) == [path]


def test_who_has_the_old_file_open_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old", 0o600)
    with path.open("rb") as reader:
        replace_file(path, b"new", 0o600)
        assert reader.read() == b"old"


def test_what_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(Unavailable, match=str(path)):
        replace_file(path, b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]
    assert path.is_dir()
