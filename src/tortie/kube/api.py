"""The Kubernetes API, as far as controllers need it: one small protocol, and it over HTTP.

    GET  …/pods?limit=500&continue=…            pages of a list, all of one revision
    GET  …/pods?watch=1&resourceVersion=R       changes after R, a JSON object a line
    POST, PUT, PATCH (merge), DELETE            one object

Objects are mappings just as they came; `tortie.model.kubernetes` reads them.

Source: Kubernetes, API concepts (list, watch, bookmarks, 410 Gone, status subresource).
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec

from tortie.lib.errors import (
    AlreadyExists,
    Compacted,
    Conflict,
    Denied,
    InvalidInput,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.lib.kubeconfig import Cluster
from tortie.model.kubernetes.fields import Object, mapping, text

PAGE_OBJECTS = 500
ANSWER_SECONDS = 30.0
WATCH_SECONDS = 300
"""After which the server ends a watch, and we begin the next where it stopped."""
LINE_BYTES = 8 << 20
"""An object is at most 1.5 MiB in etcd; more of it in JSON."""


class Kind(NamedTuple):
    """A group, its version, and the plural of a kind."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str

    def path(self, name: "Name | None" = None, subresource: str = "") -> str:
        parts = ["apis", self.group] if self.group else ["api"]
        parts.append(self.version)
        if name is not None and name.namespace:
            parts += ["namespaces", name.namespace]
        parts.append(self.plural)
        if name is not None and name.name:
            parts.append(name.name)
        if subresource:
            parts.append(subresource)
        return "/" + "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Name(NamedTuple):
    namespace: str
    """Empty for what has none."""
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def name_of(object_: Object) -> Name:
    """
    Raises:
        InvalidInput: no metadata with a name.
    """
    source = mapping(object_, "metadata")
    return Name(text(source, "namespace"), text(source, "name"))


class Page(NamedTuple):
    items: list[Object]
    revision: str
    """To watch from, once the last page is here."""
    rest: str
    """Asks for the next page; empty on the last."""


class Change(NamedTuple):
    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: Object


class Api(Protocol):
    """One API server, used from one event loop.

    Every method may raise:
        Unavailable: not reachable, or busy.
        Denied: who we are may not do that.
        InvalidInput: the server finds the request or the object wrong.
    """

    async def list(self, kind: Kind, rest: str = "") -> Page:
        """
        Raises:
            NotFound: the server knows no such kind.
            Compacted: `rest` has become too old.
        """
        ...

    def watch(self, kind: Kind, revision: str) -> AsyncGenerator[Change, None]:
        """Changes after `revision`; ends when the server ends it: go on with the last revision.

        Raises:
            Compacted: `revision` is too old: list anew.
        """
        ...

    async def get(self, kind: Kind, name: Name) -> Object:
        """
        Raises:
            NotFound: it does not exist.
        """
        ...

    async def create(self, kind: Kind, name: Name, body: Object) -> Object:
        """
        Args:
            name: only its namespace counts.

        Raises:
            AlreadyExists: the name is taken.
            NotFound: its namespace does not exist.
        """
        ...

    async def replace(self, kind: Kind, name: Name, body: Object) -> Object:
        """Over exactly the version that `body` says.

        Raises:
            Conflict: somebody wrote it since.
            NotFound: it does not exist.
        """
        ...

    async def patch(self, kind: Kind, name: Name, body: Object, *, subresource: str = "") -> Object:
        """A JSON merge patch (RFC 7386).

        Raises:
            NotFound: it does not exist.
            Conflict: `body` names a version that is not the newest.
        """
        ...

    async def close(self) -> None: ...


class HttpApi:
    def __init__(self, cluster: Cluster, user_agent: str = "tortie") -> None:
        self._cluster = cluster
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            read_bufsize=1 << 18,
        )

    async def close(self) -> None:
        await self._session.close()

    async def list(self, kind: Kind, rest: str = "") -> Page:
        query = {"limit": str(PAGE_OBJECTS)}
        if rest:
            query["continue"] = rest
        answer = await self._call("GET", kind.path(), query=query)
        source = mapping(answer, "metadata")
        items: list[Object] = answer.get("items") or []
        return Page(items, text(source, "resourceVersion"), text(source, "continue"))

    async def watch(self, kind: Kind, revision: str) -> AsyncGenerator[Change, None]:
        query = {
            "watch": "1",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        # A server that died without a word is found out a little after it should have ended it.
        timeout = aiohttp.ClientTimeout(
            total=WATCH_SECONDS + ANSWER_SECONDS, sock_connect=ANSWER_SECONDS
        )
        try:
            async with self._request("GET", kind.path(), query, timeout=timeout) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                async with aclosing(_lines(response.content)) as lines:
                    async for line in lines:
                        yield _change(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._cluster.server}: {_text_of(error)}") from None

    async def get(self, kind: Kind, name: Name) -> Object:
        return await self._call("GET", kind.path(name))

    async def create(self, kind: Kind, name: Name, body: Object) -> Object:
        return await self._call("POST", kind.path(Name(name.namespace, "")), body=body)

    async def replace(self, kind: Kind, name: Name, body: Object) -> Object:
        return await self._call("PUT", kind.path(name), body=body)

    async def patch(self, kind: Kind, name: Name, body: Object, *, subresource: str = "") -> Object:
        path = kind.path(name, subresource)
        return await self._call(
            "PATCH", path, body=body, content_type="application/merge-patch+json"
        )

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            async with self._request(method, path, query, body, content_type) as response:
                payload = await response.read()
                if response.status >= 300:
                    raise _error(response.status, payload)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(
                f"{self._cluster.server}: {_text_of(error)}", maybe_applied=method != "GET"
            ) from None
        return _decoded(payload)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Any:
        headers = {}
        if authorization := self._cluster.authorization():
            headers["Authorization"] = authorization
        if body is not None:
            headers["Content-Type"] = content_type
        more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        if self._cluster.tls is not None:
            more |= {"ssl": self._cluster.tls, "server_hostname": self._cluster.server_name}
        return self._session.request(
            method,
            self._cluster.server + path,
            params=query,
            data=None if body is None else msgspec.json.encode(body),
            headers=headers,
            **more,
        )


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Whole lines, however long; aiohttp's own reader gives up at its buffer's size."""
    pending = bytearray()
    async for chunk in content.iter_any():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            if line.strip():
                yield line
        if len(pending) > LINE_BYTES:
            raise Unavailable(f"a watch sent an object of more than {LINE_BYTES} bytes")


def _change(line: bytes) -> Change:
    event = _decoded(line)
    object_ = mapping(event, "object")
    if event.get("type") == "ERROR":
        code = object_.get("code")
        raise _status_error(code if isinstance(code, int) else 500, object_)
    return Change(text(event, "type"), object_)


def _decoded(payload: bytes) -> Object:
    try:
        value = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        raise Unavailable(f"the API server's answer is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Unavailable("the API server's answer is not an object")
    return value


def _error(code: int, payload: bytes) -> TortieError:
    try:
        status = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        status = {"message": payload[:200].decode(errors="replace")}
    return _status_error(code, status if isinstance(status, dict) else {})


def _status_error(code: int, status: Object) -> TortieError:
    message = str(status.get("message") or f"HTTP {code}")
    if code == 409:
        taken = status.get("reason") == "AlreadyExists"
        return AlreadyExists(message) if taken else Conflict(message)
    if code == 410:
        return Compacted(0)
    if code == 404:
        return NotFound(message)
    if code in (401, 403):
        return Denied(message)
    if code == 429 or code >= 500:
        return Unavailable(message)
    return InvalidInput(message)


def _text_of(error: BaseException) -> str:
    return str(error) or type(error).__name__
