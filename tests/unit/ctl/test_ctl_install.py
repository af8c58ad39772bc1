"""`node install` and `node uninstall` into a directory."""

import os
import re
import stat
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

from tortie.ctl import installation, node_install
from tortie.ctl.installation import File
from tortie.ctl.units import UNITS, Program, unit_file

UNIT_NAMES = {unit.name for unit in UNITS}
PROGRAM = Program("/opt/t/bin/python", "/opt/t/keeper.py", "/usr/sbin/bird", ("/opt/t",))


def tree(root: Path) -> dict[str, str]:
    """Every file and link, with its text."""
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_install_again_and_uninstall(tortie: Shell, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    before = tree(root)
    first = tortie("node", "install", "--root", str(root))
    assert first.code == 0, first.err
    there = tree(root)
    assert {Path(name).name for name in there} >= UNIT_NAMES
    assert there["etc/systemd/system/multi-user.target.wants/tortie-agent.service"] == (
        "/etc/systemd/system/tortie-agent.service"
    )
    assert stat.S_IMODE((root / "etc/calico/calico.env").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "etc/systemd/system/tortie-agent.service").stat().st_mode) == 0o644
    again = tortie("node", "install", "--root", str(root))
    assert (again.code, again.out) == (0, "")
    assert tree(root) == there
    assert tortie("node", "uninstall", "--root", str(root)).code == 0
    assert tree(root) == before
    assert not (root / "etc/calico").exists()
    assert not (root / "var/lib/tortie").exists()


def test_what_the_user_wrote_stays(tortie: Shell, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/calico").mkdir(parents=True)
    mine = root / "etc/calico/calico.env"
    mine.write_text("ETCD_ENDPOINTS=http://x\n")
    tortie("node", "install", "--root", str(root))
    assert mine.read_text() == "ETCD_ENDPOINTS=http://x\n"
    tortie("node", "uninstall", "--root", str(root))
    assert mine.read_text() == "ETCD_ENDPOINTS=http://x\n"
    # Ours, until somebody changes it.
    mine.unlink()
    tortie("node", "install", "--root", str(root))
    mine.write_text(mine.read_text() + "AS=64600\n")
    tortie("node", "install", "--root", str(root))
    assert "kept /etc/calico/calico.env" in tortie("node", "uninstall", "--root", str(root)).out
    assert mine.read_text().endswith("AS=64600\n")


def test_a_later_version_takes_away_what_it_has_not(tmp_path: Path) -> None:
    installation.write(tmp_path, {"/etc/a": File("1"), "/etc/b": File("2")})
    different = installation.write(tmp_path, {"/etc/a": File("3")})
    assert [change.path for change in different] == ["/etc/a"]
    assert tree(tmp_path).keys() == {"etc/a", "var/lib/tortie/installed.json"}


@pytest.mark.parametrize("after", range(6))
def test_a_crash_in_the_middle_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Whatever is there is listed, so that it can be removed; the next run completes it."""
    wanted = {f"/etc/{name}": File(name) for name in "abcd"}
    replace, count = os.replace, 0

    def failing(*arguments: Path) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(5, "crash", str(arguments[1]))
        replace(*arguments)

    with monkeypatch.context() as context:
        context.setattr("os.replace", failing)
        if after < 5:
            with pytest.raises(OSError, match="crash"):
                installation.write(tmp_path, wanted)
        else:
            installation.write(tmp_path, wanted)
    there = {f"/{name}" for name in tree(tmp_path) if name.startswith("etc") and "/." not in name}
    assert there <= installation.installed(tmp_path).files.keys()
    installation.write(tmp_path, wanted)
    installation.remove(tmp_path)
    assert tree(tmp_path) == {}


def test_dry_runs_change_nothing(tortie: Shell, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert (
        "would write /etc/systemd"
        in tortie("node", "install", "--dry-run", "--root", str(root)).out
    )
    assert not (root / "etc").exists()
    tortie("node", "install", "--root", str(root))
    before = tree(root)
    said = tortie("node", "uninstall", "--dry-run", "--root", str(root)).out
    assert "would remove /etc/systemd/system/tortie-agent.service\n" in said
    assert tree(root) == before


def test_print(tortie: Shell) -> None:
    said = tortie("node", "install", "--print").out
    for name in UNIT_NAMES:
        assert f"# /etc/systemd/system/{name}\n" in said
    assert "ETCD_ENDPOINTS" in said


def test_a_root_that_is_none(tortie: Shell, tmp_path: Path) -> None:
    outcome = tortie("node", "install", "--root", str(tmp_path / "none"))
    assert outcome.code == 1
    assert "is no directory" in outcome.err


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_setting_once(unit: object) -> None:
    """A later assignment would silently replace an earlier one."""
    assert unit in UNITS
    text = next(unit_file(one, PROGRAM) for one in UNITS if one is unit)
    sections = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)
    for section in sections[2::2]:
        # EnvironmentFile adds to what was before.
        names = re.findall(r"^(?!EnvironmentFile)(\w+)=", section, re.MULTILINE)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("place", "home", "temporary"),
    [
        ("/opt/tortie", "yes", "yes"),
        ("/root/tortie", "read-only", "yes"),
        ("/home/me/venv", "read-only", "yes"),
        ("/tmp/venv", "yes", "no"),
    ],
)
def test_the_program_is_not_hidden_from_itself(place: str, home: str, temporary: str) -> None:
    for unit in UNITS:
        text = unit_file(unit, PROGRAM._replace(directories=("/usr", place)))
        if "[Service]" in text:
            assert f"\nProtectHome={home}\n" in text
            assert f"\nPrivateTmp={temporary}\n" in text
            assert "\nNoNewPrivileges=yes\n" in text


def test_a_place_that_units_cannot_name(
    tortie: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/opt/my tools/%i/python")
    outcome = tortie("node", "install", "--root", str(tmp_path))
    assert outcome.code == 1
    assert "cannot name such a path" in outcome.err


def test_this_program_is_the_one_that_is_started() -> None:
    program = node_install.program()
    assert Path(program.python).exists()
    assert Path(program.keeper).name == "keeper.py"
    assert Path(program.keeper).exists()
