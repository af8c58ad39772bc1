"""Bad input: whatever comes in, the answer is a value or InvalidInput, and it comes soon.

`corpus/` keeps inputs that once were, or might be, too much: stored values (key, then bytes),
files of users, networks, selectors, names. Hypothesis makes more of them: it cuts, repeats
and joins parts of what is there.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_address, parse_network
from tortie.model import codec, names
from tortie.model.documents import load
from tortie.model.keys import PLURALS, RESOURCES, parse_key
from tortie.model.metadata import Resource
from tortie.model.validation import terms, validate, with_defaults
from tortie.model.validation.bgp import parse_peer_ip
from tortie.model.validation.settings import is_community
from tortie.selector.syntax import compile_selector

CORPUS = Path(__file__).parent / "corpus"
STORED = Path(__file__).parent / "stored"
LIMIT_SECONDS = 2.0
"""For one input of at most a few 100 KB, on a slow and busy machine."""


def _inputs(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / folder).iterdir())]


def _lines(folder: str) -> list[bytes]:
    return [line for raw in _inputs(folder) for line in raw.split(b"\n")]


def read_value(raw: bytes) -> None:
    """Key and value, as they come from the datastore."""
    path, _, value = raw.partition(b"\n")
    key = parse_key(path.decode(errors="replace"))
    if key is None:
        return
    found = codec.decode(key, value)
    codec.encode(key, found, value)
    if isinstance(found, Resource):
        validate(found, stored=True)
        validate(with_defaults(found))


def read_json_file(raw: bytes) -> None:
    load(raw, "f.json")


def read_yaml_file(raw: bytes) -> None:
    load(raw, "f.yaml")


def read_network(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")
    for read in (
        parse_network,
        parse_address,
        parse_peer_ip,
        lambda text: parse_network(text, strict=True),
    ):
        try:
            read(text)
        except InvalidInput:
            continue
    raise_nothing = [
        *terms.network_problems("a", text, strict=True),
        *terms.address_problems("a", text, 4),
        *terms.host_network_problems("a", text, 6),
        *terms.mac_problems("a", text),
    ]
    assert all("\n" not in str(problem) for problem in raise_nothing)


def read_selector(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")
    for problem in terms.selector_problems("a", text):
        assert "\n" not in str(problem)
    compile_selector(text)


def read_name(raw: bytes) -> None:
    text = raw.decode(errors="surrogateescape")
    for kind in PLURALS:
        for problem in terms.name_problems(kind, text):
            assert "\n" not in str(problem)
    for check in (
        names.is_label_key, names.is_label_value, names.is_interface_name, names.is_port_name,
        is_community,
    ):  # fmt: skip
        assert check(text) in (True, False)
    for problems in (terms.port_problems, terms.protocol_problems, terms.duration_problems):
        assert all("\n" not in str(problem) for problem in problems("a", text))
    parse_key(text)
    parse_key(RESOURCES + text)


READERS: dict[str, list[Callable[[bytes], None]]] = {
    "values": [read_value],
    "files": [read_json_file, read_yaml_file],
    "networks": [read_network],
    "selectors": [read_selector],
    "names": [read_name],
}


def _judged(read: Callable[[bytes], None], raw: bytes) -> None:
    """Read it; any error but InvalidInput is a failure, and so is a long wait."""
    began = time.process_time()
    message = "fine"
    try:
        read(raw)
    except InvalidInput as error:
        message = str(error)
    # One line for each mistake, and nothing in it that a terminal would obey.
    assert message, "refused without a word"
    assert all(line.isprintable() for line in message.split("\n")), repr(message)
    took = time.process_time() - began
    assert took < LIMIT_SECONDS, f"{took:.1f} s for {len(raw)} bytes"


@pytest.mark.parametrize("folder", READERS)
def test_what_the_corpus_keeps(folder: str) -> None:
    whole = folder in ("values", "files")
    found = _inputs(folder) if whole else _lines(folder)
    assert found, f"no input for {folder}"
    for raw in found:
        for read in READERS[folder]:
            _judged(read, raw)


HUGE = {
    "values": [
        f"{RESOURCES}nodes/n\n".encode() + body
        for body in (
            b"[" * 200_000, b'{"a":' * 200_000, b'"' * 300_000, b"9" * 300_000, b"\\" * 300_000,
            b'{"spec":{"order":1' + b"0" * 100_000 + b"}}", b"[[]," * 100_000, b"{}" * 100_000,
        )
    ],
    "files": [
        b"[" * 100_000, b"- " * 100_000, b"a: " * 50_000, b"{" * 100_000, b"? " * 50_000,
        b"&a [" + b"*a," * 1000 + b"]", b"'" * 100_001, b"|\n" * 50_000, b"%" * 100_000,
        b"apiVersion: 1" + b"0" * 100_000, b"\xff" * 100_000, b"---\n" * 50_000,
        b"a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n" * 2,
    ],
    "networks": [b"1." * 100_000, b":" * 200_000, b"1/" + b"9" * 100_000, b"10.0.0.0/" * 10_000],
    "selectors": [
        b"(" * 100_000, b"!" * 100_000, b"a == 'b' && " * 20_000, b"a in {" + b"'x'," * 50_000,
        b"a" * 200_000, b"a == '" + b"b" * 200_000, b"has(" * 50_000, b"a=='b'||" * 30_000 + b"c",
    ],
    "names": [
        b"a-" * 100_000, b"a." * 100_000, b"-" * 200_000, b"9" * 200_000, b"1:" * 100_000,
        b"9" * 5000 + b":" + b"9" * 5000, b"1h" * 100_000, b"a/" * 100_000, b"%2f" * 100_000,
    ],
}  # fmt: skip


@pytest.mark.parametrize("folder", READERS)
def test_what_is_huge(folder: str) -> None:
    for raw in HUGE[folder]:
        for read in READERS[folder]:
            _judged(read, raw)


def _mutated(folder: str) -> st.SearchStrategy[bytes]:
    """Parts of known inputs, cut, repeated and joined, with some noise between."""
    seeds = _inputs(folder) if folder in ("values", "files") else _lines(folder)
    if folder == "values":
        seeds += [b"\n".join(p.read_bytes().split(b"\n")[:2]) for p in STORED.iterdir()]
    if folder == "files":
        seeds += [p.read_bytes().split(b"\n")[1] for p in STORED.iterdir()]

    @st.composite
    def mutate(draw: st.DrawFn) -> bytes:
        raw = draw(st.sampled_from(seeds))
        head = raw.find(b"\n") + 1 if folder == "values" else 0
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(head, max(head, len(raw))))
            end = draw(st.integers(start, min(len(raw), start + 20)))
            noise = draw(
                st.binary(max_size=4)
                | st.sampled_from([b'"', b"{", b"]", b",", b"\n", b"\x1b[31m", b"\xed\xa0\x80"])
                | st.just(raw[start:end] * 3)
            )
            raw = raw[:start] + noise + raw[end:]
        return raw

    return mutate()


@pytest.mark.parametrize("folder", READERS)
def test_what_is_like_the_corpus(folder: str) -> None:
    @settings(max_examples=300, deadline=None)
    @given(_mutated(folder))
    def judge(raw: bytes) -> None:
        for read in READERS[folder]:
            _judged(read, raw)

    judge()


@pytest.mark.parametrize("folder", READERS)
def test_what_is_like_nothing(folder: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8")))
    def judge(raw: bytes) -> None:
        prefix = f"{RESOURCES}tiers/t\n".encode() if folder == "values" else b""
        for read in READERS[folder]:
            _judged(read, prefix + raw)

    judge()
