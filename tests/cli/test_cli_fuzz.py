"""Any command line gets an answer: no traceback, no hang, no secret."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.cli.conftest import make_embedded

from tortie.ctl.commands import BY_PATH, COMMANDS, COMMON
from tortie.ctl.gotemplate import render as render_go_template
from tortie.ctl.jsonpath import render as render_jsonpath
from tortie.ctl.kinds import ALIASES
from tortie.ctl.label_selector import parse as parse_labels
from tortie.ctl.main import main
from tortie.ctl.patching import WAYS
from tortie.lib.errors import InvalidInput

CANARY = "canary-5f3a1c77"
"""The password in the environment; it must not turn up anywhere."""

EXAMPLES = Path(__file__).parent / "corpus.txt"

_HARMLESS = [
    c
    for c in COMMANDS
    if c.path not in ("edit", "cluster diags", "doctor", "version")
    and (not c.path.startswith("node ") or c.path == "node checksystem")
]
"""The others change this machine, start an editor, write into the current directory, or poll
on request."""

_words = st.one_of(
    st.sampled_from(sorted(ALIASES)),
    st.sampled_from(["n1", "default", "node/n1", "a=b", "-", "--", "", "=", "-n", "{", "x" * 300]),
    st.text(max_size=20),
)
_KNOWN = [flag for command in _HARMLESS for flag in (*command.flags, *COMMON)]
_flags = st.one_of(
    st.sampled_from(sorted({f"--{flag.name}" for flag in _KNOWN})),
    st.sampled_from(sorted({f"-{letter}" for flag in _KNOWN for letter in flag.short})),
    st.sampled_from(["-h", "--help", "-x", "--odd", "-oyaml", "-o=wide", "-Ron"]),
)
_values = st.sampled_from(
    ["wide", "yaml", "json", "name", "csv", "custom-columns=NAME", "jsonpath={.items[*]}",
     "go-template={{range .}}{{.}}{{end}}", "merge", "json", "true", "server", "/dev/null",
     "/nonexistent", ".", "0", "-1", "10.0.0.1", "::", "a in (b", "all()"]
)  # fmt: skip
_command_lines = st.tuples(
    st.sampled_from([c.path.split() for c in _HARMLESS] + [["ipam"], ["datastore", "migrate"]]),
    st.lists(st.one_of(_words, _flags, _values), max_size=6),
).map(lambda parts: [*parts[0], *parts[1]])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "store" / "datastore.db"
    make_embedded(path)
    return path


def _run(words: list[str], store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as context:
        context.setenv("DATASTORE_TYPE", "embedded")
        context.setenv("TORTIE_EMBEDDED_PATH", str(store))
        context.setenv("ETCD_PASSWORD", CANARY)
        context.setenv("ETCD_USERNAME", "somebody")
        context.delenv("TORTIE_DEBUG", raising=False)
        context.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"kind: Nod\n")))
        context.chdir(store.parent)
        out, err = io.StringIO(), io.StringIO()
        code = main(words, out, err)
    text = out.getvalue() + err.getvalue()
    assert code in (0, 1, 2)
    assert "internal error" not in text
    assert "Traceback" not in text
    assert CANARY not in text
    assert code == 0 or err.getvalue() or words[0] == "diff"
    return text


@settings(
    max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=_command_lines)
@example(words=["get", "node", "-o", "jsonpath={"])
@example(words=["get", "np", "-w", "-o", "csv"])
@example(words=["patch", "node", "\x00", "-p", "{}"])
@example(words=["apply", "-f", "\x00"])
@example(words=["label", "node", "a/b", "="])
def test_any_command_line(words: list[str], store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watches = any(w.startswith("--w") or (w[:1] == "-" and "w" in w[:5]) for w in words)
    if words[0] == "get" and watches:
        words = [word for word in words if not word.startswith("-")]
    _run(words, store, monkeypatch)


@pytest.mark.parametrize("line", EXAMPLES.read_text().splitlines())
def test_what_once_went_wrong(line: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(line.encode().decode("unicode_escape").split(" "), store, monkeypatch)


_templates = st.lists(
    st.sampled_from(
        ["{", "}", "{{", "}}", "range ", "end", "if ", "else", "with ", ".", ".items", "[*]", "[0]",
         "[?(@.a==1)]", "..", "'x'", '"y"', "|", "(", ")", "len ", "index ", "printf ", "join ",
         "$x", ":=", "-1", "[1:2:0]", " ", "\\", "%s", "`", "\n"]
    ),
    max_size=12,
).map("".join)  # fmt: skip
_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "items", "metadata"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=2000)
@given(template=_templates | st.text(max_size=30), data=_plain)
def test_any_template(template: str, data: object) -> None:
    for render in (render_jsonpath, render_go_template):
        with contextlib.suppress(InvalidInput):
            assert isinstance(render(template, data), str)


@settings(max_examples=200, deadline=2000)
@given(text=st.text(max_size=30) | st.text("a=,!() in'notx", max_size=20))
def test_any_label_selector(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse_labels(text).matches({"a": "x"})


@settings(max_examples=300, deadline=2000)
@given(
    document=_plain,
    patch=_plain
    | st.lists(
        st.fixed_dictionaries(
            {
                "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "odd"]),
                "path": st.sampled_from(["", "/a", "/items/0", "/items/-", "/a/metadata/a", "x"]),
            },
            optional={"value": _plain, "from": st.sampled_from(["/a", "/items/0", "", "/b"])},
        ),
        max_size=3,
    ),
)
def test_any_patch(document: object, patch: object) -> None:
    before = repr(document)
    for way in WAYS.values():
        with contextlib.suppress(InvalidInput):
            way(document, patch)
        assert repr(document) == before, "a patch must not change what it starts from"


def test_no_secret_is_printed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the connection fails."""
    monkeypatch.setenv("ETCD_PASSWORD", CANARY)
    monkeypatch.setenv("ETCD_USERNAME", "somebody")
    monkeypatch.setenv("DATASTORE_TYPE", "etcdv3")
    monkeypatch.setenv("ETCD_ENDPOINTS", f"http://somebody:{CANARY}@127.0.0.1:1")
    monkeypatch.setenv("TORTIE_DEBUG", "1")
    out, err = io.StringIO(), io.StringIO()
    assert main(["get", "nodes"], out, err) == 1
    assert CANARY not in out.getvalue() + err.getvalue()


def test_every_command_has_its_module() -> None:
    from importlib import import_module

    for command in BY_PATH.values():
        assert callable(import_module(command.module).main)
