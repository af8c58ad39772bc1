"""`tortie cni`: what lies where afterwards, and that nothing is ever half there."""

import ast
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install, main, plugin
from tortie.lib.errors import InvalidInput, Unavailable


def run(tmp_path: Path, *arguments: str) -> int:
    places = ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    return main.main([arguments[0], *places, *arguments[1:]])


def test_plugins_and_configuration(tmp_path: Path) -> None:
    assert run(tmp_path, "install", "--run-directory", "/run/x'y", "--state-directory", "/s") == 0
    for name in ("tortie", "tortie-ipam", "calico", "calico-ipam"):
        path = tmp_path / "bin" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        text = path.read_text()
        assert text.startswith("#!/")
        assert text.split("\n", 1)[0].endswith(" -IS")
        [source] = [
            node.value.value
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "SOURCE"
            and isinstance(node.value, ast.Constant)
        ]
        tree = ast.parse(str(source))
        values = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        assert (values["SOCKET"], values["SPOOL"]) == ("/run/x'y/attach.sock", "/s/cni")
        done = subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, capture_output=True)
        assert json.loads(done.stdout)["supportedVersions"][-1] == "1.1.0"
    conflist = tmp_path / "net.d" / "10-tortie.conflist"
    assert stat.S_IMODE(conflist.stat().st_mode) == 0o600
    found = json.loads(conflist.read_text())
    assert [p["type"] for p in found["plugins"]] == ["tortie", "portmap", "bandwidth"]
    assert sorted(p.name for p in tmp_path.rglob(".*")) == []


def test_again_replaces_and_uninstall_removes_only_ours(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    foreign = tmp_path / "bin" / "calico"
    assert run(tmp_path, "install") == 0
    inode = foreign.stat().st_ino
    assert run(tmp_path, "install", "--plain", "--ipv6", "--mtu", "1400") == 0
    assert foreign.stat().st_ino != inode, "a new file, renamed into place"
    main_plugin = json.loads((tmp_path / "net.d" / "10-tortie.conflist").read_text())["plugins"][0]
    assert main_plugin["mtu"] == 1400
    assert main_plugin["ipam"]["assign_ipv6"] == "true"
    foreign.write_text("somebody else's")
    assert run(tmp_path, "uninstall") == 0
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["calico"]
    assert run(tmp_path, "uninstall") == 0


def test_show_prints_what_install_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["show"]) == 0
    assert capsys.readouterr().out.encode() == default_conflist(kubernetes=True, ipv6=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name":"a","cniVersion":"1.0.0"}', "nonsense"])
def test_a_bad_configuration_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "given").write_text(text)
    with pytest.raises(InvalidInput):
        run(tmp_path, "install", "--conflist", str(tmp_path / "given"))
    assert not (tmp_path / "bin").exists()


def test_what_cannot_be_written_or_started(tmp_path: Path) -> None:
    (tmp_path / "bin").write_text("in the way")
    with pytest.raises(Unavailable, match="bin"):
        run(tmp_path, "install")
    for python in ("python3", "/a b", "/nonexistent", "/bin/true", "/bin/false"):
        with pytest.raises(InvalidInput, match="interpreter"):
            run(tmp_path, "install", "--python", python)


def test_the_plugin_imports_nothing_that_has_to_be_found() -> None:
    """What makes it start as fast as the interpreter does."""
    code = (
        "import sys; text = open(sys.argv[1]).read(); before = set(sys.modules)\n"
        "exec(compile(text, 'x', 'exec'), {'__name__': 'x'})\n"
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [install.interpreter(), "-IS", "-c", code, plugin.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "_json _socket\n"
    assert os.path.getsize(plugin.__file__) < 20_000, "it is compiled at each start"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mtu", "576"], "mtu is 576; it must be 1280 to 65535"),
        (["--kubeconfig", "relative"], "must be an absolute path"),
        (["--conflist", '{"type": "calico", "ipam": {"type": "dhcpp"}}'], "ipam.type 'dhcpp'"),
        (["--conflist", '{"type": "calico", "mtu": "1400"}'], "mtu"),
    ],
)
def test_what_every_add_would_refuse_is_not_installed(
    tmp_path: Path, options: list[str], says: str
) -> None:
    if options[0] == "--conflist":
        text = '{"name": "n", "cniVersion": "0.3.1", "plugins": [PLUGIN]}'
        path = tmp_path / "own.conflist"
        path.write_text(text.replace("PLUGIN", options[1]))
        options = ["--conflist", str(path)]
    with pytest.raises(InvalidInput, match=says):
        run(tmp_path, "install", *options)
    assert not (tmp_path / "bin").exists()
    assert not (tmp_path / "net.d").exists()
