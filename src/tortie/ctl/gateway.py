"""etcd's JSON gateway, for one question at the start of a command.

A client of gRPC costs 100 ms of imports; one HTTP request over a plain socket, 5. Whatever is
not as expected makes the caller ask by gRPC instead, which also knows how to say what is wrong.

Source: etcd, api/etcdserverpb/rpc.proto, `/v3/kv/range`.
"""

from __future__ import annotations

import binascii
import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_PATIENCE_SECONDS = 2.0
_ANSWER_MAX_BYTES = 256 * 1024 * 1024


def ranges(endpoint: str, prefixes: Sequence[str]) -> tuple[list[Any], int] | None:
    """Path, value and revision of everything under each prefix, as of one revision.

    Args:
        endpoint: as in `http://127.0.0.1:2379`.

    Returns:
        None: it could not be had this way.
    """
    host, _, port = endpoint.removeprefix("http://").rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        return None
    listings: list[Any] = []
    revision = 0
    try:
        for prefix in prefixes:
            key = prefix.encode()
            question: dict[str, Any] = {
                "key": _coded(key),
                "range_end": _coded(key[:-1] + bytes([key[-1] + 1])),
            }
            if revision:
                question["revision"] = revision
            answer = _post(host.strip("[]"), int(port), "/v3/kv/range", question)
            revision = revision or int(answer["header"]["revision"])
            listings.append([_entry(found) for found in answer.get("kvs", ())])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return listings, revision


def _coded(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()


def _entry(found: Any) -> tuple[str, bytes, int]:
    value = binascii.a2b_base64(found.get("value", ""))
    return binascii.a2b_base64(found["key"]).decode(), value, int(found["mod_revision"])


def _post(host: str, port: int, path: str, question: object) -> Any:
    body = json.dumps(question).encode()
    with socket.create_connection((host, port), timeout=_PATIENCE_SECONDS) as connection:
        # 1.0: the server closes after its answer, so no chunks are to be put together.
        head = f"POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        parts: list[bytes] = []
        size = 0
        while part := connection.recv(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _ANSWER_MAX_BYTES:
                raise ValueError("the answer is too large")
    answer_head, _, answer = b"".join(parts).partition(b"\r\n\r\n")
    if answer_head.split(None, 2)[1:2] != [b"200"]:
        raise ValueError("refused")
    return json.loads(answer)
