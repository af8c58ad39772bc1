"""Passwords from files, and which files are refused."""

from pathlib import Path

import pytest

from tortie.bgp.secrets import Secrets
from tortie.lib.errors import InvalidInput
from tortie.model.bgp_configuration import SecretKeySelector

WANTED = SecretKeySelector(name="bgp", key="tor")


def write(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    path = directory / "bgp" / "tor"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_password_is_one_line_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, b"s3cret with 'quotes' #{};\n")
    assert Secrets(tmp_path).password(WANTED) == "s3cret with 'quotes' #{};"


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"secret", 0o640, "chmod 0600"),
        (b"secret", 0o604, "chmod 0600"),
        (b"", 0o600, "printable"),
        (b'a"b', 0o600, "double quote"),
        (b"a\nb", 0o600, "printable"),
        (b"a\x00b", 0o600, "printable"),
        ("pässword".encode(), 0o600, "printable"),
        (b"x" * 81, 0o600, "1 to 80"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, mode: int, says: str) -> None:
    write(tmp_path, content, mode)
    with pytest.raises(InvalidInput, match=says):
        Secrets(tmp_path).password(WANTED)


@pytest.mark.parametrize("name", ["", "..", "../bgp", "a/b", ".hidden", "a\0b"])
def test_names_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    write(tmp_path, b"secret")
    with pytest.raises(InvalidInput):
        Secrets(tmp_path / "bgp").password(SecretKeySelector(name=name, key="tor"))


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    with pytest.raises(InvalidInput, match="cannot read"):
        secrets.password(WANTED)
    assert not secrets.changed()
    path = write(tmp_path, b"one")
    assert secrets.changed()
    secrets.forget()
    assert secrets.password(WANTED) == "one"
    assert not secrets.changed()
    path.unlink()
    assert secrets.changed()
