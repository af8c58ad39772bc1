"""Users and roles of an etcd cluster; only its root may see or change them.

Source: etcd, api/etcdserverpb/rpc.proto (Auth), api/authpb/auth.proto.
"""

from collections.abc import Sequence

from tortie.datastore.etcd.messages import Permission, decode_permission, encode_permission
from tortie.datastore.etcd.transport import Transport
from tortie.datastore.etcd.wire import bytes_field, fields, number_field


class Auth:
    """The calls. Raises as every call of `EtcdClient`; `Denied` without root."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def roles(self) -> list[str]:
        return [text.decode() for text in await self._repeated("RoleList", b"")]

    async def permissions(self, role: str) -> set[Permission]:
        found = await self._repeated("RoleGet", _text(1, role))
        return {decode_permission(data) for data in found}

    async def add_role(self, role: str) -> None:
        await self._change("RoleAdd", _text(1, role))

    async def grant(self, role: str, permission: Permission) -> None:
        """Another access to the very same range takes its place."""
        encoded = bytes_field(2, encode_permission(permission))
        await self._change("RoleGrantPermission", _text(1, role) + encoded)

    async def withdraw(self, role: str, permission: Permission) -> None:
        request = _text(1, role) + bytes_field(2, permission.key) + bytes_field(3, permission.end)
        await self._change("RoleRevokePermission", request)

    async def users(self) -> list[str]:
        return [text.decode() for text in await self._repeated("UserList", b"")]

    async def roles_of(self, user: str) -> list[str]:
        return [text.decode() for text in await self._repeated("UserGet", _text(1, user))]

    async def add_user(self, user: str) -> None:
        """Without a password: it is who a client certificate names as its common name."""
        await self._change("UserAdd", _text(1, user) + bytes_field(3, number_field(1, 1)))

    async def give_role(self, user: str, role: str) -> None:
        await self._change("UserGrantRole", _text(1, user) + _text(2, role))

    async def _change(self, method: str, request: bytes) -> None:
        await self._transport.call(f"Auth/{method}", request, bytes, writes=True)

    async def _repeated(self, method: str, request: bytes) -> Sequence[bytes]:
        """The values of field 2, which is where each answer has its list."""
        return await self._transport.call(f"Auth/{method}", request, _list)


def _list(data: bytes) -> list[bytes]:
    return [content for number, _, content in fields(data) if number == 2]


def _text(number: int, text: str) -> bytes:
    return bytes_field(number, text.encode())
