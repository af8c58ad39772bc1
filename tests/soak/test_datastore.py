"""D2, D14 and D16 at full length: leaders that die for ten minutes, a million damaged values, one
hundred thousand keys.

`TORTIE_SOAK_SECONDS` makes the first shorter.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.datastore.etcd_server import EtcdServer
from tests.faults.etcd_cluster import etcd_cluster
from tests.faults.test_datastore_cluster import leaders_die
from tests.faults.test_datastore_server import read_slowly
from tests.unit.model.test_model_damage import CASES

from tortie.lib.errors import InvalidInput
from tortie.model import codec
from tortie.model.keys import Key, parse_key
from tortie.model.metadata import Resource
from tortie.model.validation import validate

SECONDS = int(os.environ.get("TORTIE_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("TORTIE_RANDOM", "1"))
VALUES, KEYS = 1_000_000, 100_000

pytestmark = pytest.mark.timeout(2400)


def test_d2_leaders_die_for_ten_minutes(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path) as cluster:
        deaths = leaders_die(cluster, SECONDS)
    assert deaths >= SECONDS / 20


def test_d14_a_million_damaged_values() -> None:
    """Each is read, or refused as not valid; nothing else ever comes of it."""
    refused = 0
    for key, damaged in _damaged(Random(SEED)):
        try:
            value = codec.decode(key, damaged)
            if isinstance(value, Resource):
                validate(value, stored=True)
        except InvalidInput:
            refused += 1
    assert VALUES * 0.1 < refused < VALUES


def _damaged(random: Random) -> Iterator[tuple[Key, bytes]]:
    values = [value for _, value in CASES]
    keys = [parse_key(key.decode()) for key, _ in CASES]
    known = [(key, value) for key, value in zip(keys, values, strict=True) if key is not None]
    for _ in range(VALUES):
        key, value = random.choice(known)
        text = bytearray(value)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(text) + 1)
            match random.randrange(4):
                case 0:
                    text[at : at + 1] = random.randbytes(1)
                case 1:
                    text[at : at + random.randint(1, 8)] = b""
                case 2:
                    text[at:at] = text[at : at + random.randint(1, 30)]
                case _:
                    other = random.choice(values)
                    start = random.randrange(len(other))
                    text[at : at + 5] = other[start : start + random.randint(1, 20)]
        yield key, bytes(text)


def test_d16_a_hundred_thousand_keys(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path / "etcd").start()
    try:
        read_slowly(server, KEYS)
    finally:
        server.kill()
