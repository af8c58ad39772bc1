"""`tortie cni`: what lies where afterwards, and that nothing is ever half there."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tortie.attach.cni.conflist import default_conflist
from tortie.cni import install, main, plugin
from tortie.lib.errors import InvalidInput, Unavailable


def run(tmp_path: Path, *arguments: str) -> int:
    places = ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    return main.main([arguments[0], *places, *arguments[1:]])


@pytest.mark.parametrize("perl", ["/usr/bin/perl", "none"])
def test_plugins_and_configuration(tmp_path: Path, perl: str) -> None:
    """Names of users' directories are text, whatever they look like."""
    run_directory, state = """/run/x'y\\'"$(z)""", "/s\\n'"
    directories = "--run-directory", run_directory, "--state-directory", state
    assert run(tmp_path, "install", *directories, "--perl", perl) == 0
    for name in ("tortie", "tortie-ipam", "calico", "calico-ipam"):
        path = tmp_path / "bin" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        started_by = path.read_text().split("\n", 1)[0]
        assert started_by == (f"#!{perl}" if perl != "none" else "#!/usr/bin/python3 -IS")
        done = subprocess.run([path], env={"CNI_COMMAND": "VERSION"}, capture_output=True)
        assert json.loads(done.stdout)["supportedVersions"][-1] == "1.1.0"
        done = subprocess.run([path], env={"CNI_COMMAND": "ADD"}, input=b"{}", capture_output=True)
        assert f"{run_directory}/attach.sock:" in json.loads(done.stdout)["msg"]
    conflist = tmp_path / "net.d" / "10-tortie.conflist"
    assert stat.S_IMODE(conflist.stat().st_mode) == 0o600
    found = json.loads(conflist.read_text())
    assert [p["type"] for p in found["plugins"]] == ["tortie", "portmap", "bandwidth"]
    assert sorted(p.name for p in tmp_path.rglob(".*")) == []


def test_without_perl_python_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SYSTEM_PERL", "/nonexistent")
    assert run(tmp_path, "install") == 0
    assert (tmp_path / "bin" / "tortie").read_text().startswith("#!/usr/bin/python3 -IS")
    with pytest.raises(InvalidInput, match="interpreter /bin/false"):
        run(tmp_path, "install", "--perl", "/bin/false")


def test_the_short_cut_says_what_the_plugin_says(tmp_path: Path) -> None:
    """The agent gets the same request, whatever a runtime hands over; larger than a pipe, too."""
    said: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            with listener.accept()[0] as client:
                found = b""
                while not found.endswith(b"\n"):
                    found += client.recv(1 << 16)
                if b'"stop"' in found:
                    return
                said.append(found)
                client.sendall(b'{"error":{"code":7,"msg":"\xc3\xa9 }"}}\n')

    odd = b'a"b\\c\x01\x1f\x7f \xc3\xa9\xf0\x9f\x90\x88 $(x) @y %z'
    path = os.fsencode(tmp_path / "ns")
    cases: list[tuple[bytes, bytes]] = [
        (b"{}", b"c1"),
        (odd, odd),
        (b"", b""),
        (b"\xff\xfe", b"\x80"),
        (b'"%s"' % (b"x" * 300_000), b"c1"),
        (b"\xff" * 300_000, b"c1"),
    ]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "attach.sock"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        for config, container in cases:
            environment = {
                b"CNI_COMMAND": b"CHECK", b"CNI_CONTAINERID": container, b"CNI_ARGS": b"A=" + odd,
                b"CNI_NETNS": path, b"HOME": b"/", b"CNI_NETNS_OVERRIDE": b"",
            }  # fmt: skip
            done = []
            for perl in ("/usr/bin/perl", "none"):
                bin_dir = tmp_path / perl.rpartition("/")[2]
                places = install.Places(tmp_path / "attach.sock", tmp_path / "spool", perl=perl)
                install.install(
                    bin_dir, None, places, default_conflist(kubernetes=False, ipv6=False)
                )
                done.append(
                    subprocess.run(
                        [bin_dir / "calico"], env=environment, input=config, capture_output=True
                    )
                )
            short, whole = done
            assert (short.returncode, short.stdout) == (whole.returncode, whole.stdout)
            assert (short.stdout, short.returncode) == (b'{"code":7,"msg":"\xc3\xa9 }"}\n', 1)
            assert short.stderr == whole.stderr == b""
            requests = [json.loads(line) for line in said]
            assert requests[0] == requests[1]
            assert requests[0]["environment"]["CNI_ARGS"] == "A=" + odd.decode()
            assert requests[0]["config"] == config.decode(errors="replace")
            said.clear()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(os.fspath(tmp_path / "attach.sock"))
            last.sendall(b'"stop"\n')
        thread.join()


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
    assert done.stdout == "_socket\n"
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


@pytest.mark.parametrize("perl", ["/usr/bin/perl", "none"])
def test_an_agent_that_takes_no_more_calls_is_away(tmp_path: Path, perl: str) -> None:
    """It listens, and its queue is full: not even connecting ends by itself."""
    places = install.Places(
        tmp_path / "attach.sock", tmp_path / "spool", perl=perl, timeout_seconds=1.0
    )
    conflist = default_conflist(kubernetes=False, ipv6=False)
    install.install(tmp_path / "bin", None, places, conflist)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(os.fspath(places.socket))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(os.fspath(places.socket))
        environment = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1"}
        done = subprocess.run(
            [tmp_path / "bin" / "tortie"], env=environment, input=b"{}", capture_output=True
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(list(places.spool.glob("*.json"))) == 1
