"""`tortie datastore roles`: a role of etcd for each component.

Without `--apply` nothing is changed; what is printed is what etcdctl would have to be told. With
it each role gets exactly its permissions: what is missing is granted, what is more is taken away.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tortie.ctl import access
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.datastore.client import Client
from tortie.datastore.etcd.messages import Access, Permission, range_end
from tortie.datastore.roles import Role, cluster_roles, host_roles
from tortie.lib.errors import Denied, InvalidInput, Unavailable

_WORDS = {Access.READ: "read", Access.WRITE: "write", Access.READ_WRITE: "readwrite"}


class Known(NamedTuple):
    """What a cluster has now: permissions by role, roles by user."""

    roles: Mapping[str, Collection[Permission]]
    users: Mapping[str, Collection[str]]


class Plan(NamedTuple):
    """What to change for one role."""

    role: Role
    is_new: bool
    grants: Sequence[Permission]
    withdrawals: Sequence[Permission]
    new_user: bool
    gives: bool
    """The role to the user of its name."""

    @property
    def is_empty(self) -> bool:
        return not (self.is_new or self.grants or self.withdrawals or self.new_user or self.gives)


def main(given: Given, screen: Screen) -> int:
    wanted = _wanted(given)
    with_users = given.has("users")
    config = access.config_file(given)

    async def show(client: Client) -> None:
        _print([*map(_lines, plans(wanted, await _known(client), with_users))], screen)

    async def make(client: Client) -> None:
        for plan in plans(wanted, await _known(client), with_users):
            await _carry_out(client, plan)
            screen.print(_summary(plan))

    if given.has("apply"):
        access.with_client(config, make)
        return 0
    try:
        access.with_client(config, show)
    except (Denied, Unavailable) as error:
        screen.warn(f"the roles that are there are not known, so these make all of them: {error}")
        _print([*map(_lines, plans(wanted, Known({}, {}), with_users))], screen)
    return 0


def plans(wanted: Sequence[Role], known: Known, with_users: bool) -> list[Plan]:
    """What it takes to make roles, and if asked for a user of each one's name. Pure."""
    found = []
    for role in wanted:
        there = frozenset(known.roles.get(role.name, ()))
        ranges = {(permission.key, permission.end) for permission in role.permissions}
        given = role.name in known.users.get(role.name, ())
        found.append(
            Plan(
                role,
                role.name not in known.roles,
                sorted(role.permissions - there, key=_by_key),
                # Another access to a range that is wanted goes by granting the right one.
                sorted((p for p in there if (p.key, p.end) not in ranges), key=_by_key),
                with_users and role.name not in known.users,
                with_users and not given,
            )
        )
    return found


def _wanted(given: Given) -> list[Role]:
    hosts, namespaces = given.texts("host"), given.texts("namespace")
    if not hosts:
        for flag in ("namespace", "region"):
            if given.has(flag):
                raise InvalidInput(f"--{flag} says something of one host: give --host, too")
        return cluster_roles()
    return [role for host in hosts for role in host_roles(host, namespaces, given.text("region"))]


async def _known(client: Client) -> Known:
    from tortie.datastore.etcd import EtcdClient

    if not isinstance(client, EtcdClient):
        raise InvalidInput(
            "roles are etcd's: who may use an embedded datastore is who may open its file"
        )
    auth = client.auth()
    roles = {name: await auth.permissions(name) for name in await auth.roles()}
    return Known(roles, {name: await auth.roles_of(name) for name in await auth.users()})


async def _carry_out(client: Client, plan: Plan) -> None:
    from tortie.datastore.etcd import EtcdClient

    assert isinstance(client, EtcdClient)
    auth, name = client.auth(), plan.role.name
    if plan.is_new:
        await auth.add_role(name)
    for permission in plan.grants:
        await auth.grant(name, permission)
    for permission in plan.withdrawals:
        await auth.withdraw(name, permission)
    if plan.new_user:
        await auth.add_user(name)
    if plan.gives:
        await auth.give_role(name, name)


def _summary(plan: Plan) -> str:
    name = plan.role.name
    if plan.is_empty:
        return f"Role {name} is as it should be"
    user = ", with a user" if plan.gives else ""
    if plan.is_new:
        return f"Role {name} made{user}"
    counts = f"{len(plan.grants)} granted, {len(plan.withdrawals)} taken away"
    return f"Role {name} changed: {counts}{user}"


def _print(blocks: Sequence[Sequence[str]], screen: Screen) -> None:
    lines = [line for block in blocks for line in block]
    for line in lines or ["# every role is as it should be"]:
        screen.print(line)


def _lines(plan: Plan) -> list[str]:
    """What etcdctl is to be told."""
    if plan.is_empty:
        return []
    name = plan.role.name
    lines = [f"# {plan.role.summary}"]
    if plan.is_new:
        lines.append(_command("role", "add", name))
    lines += [
        _command("role", "grant-permission", name, *_range(p, _WORDS[p.access]))
        for p in plan.grants
    ]
    lines += [_command("role", "revoke-permission", name, *_range(p)) for p in plan.withdrawals]
    if plan.new_user:
        lines.append(_command("user", "add", name, "--no-password"))
    if plan.gives:
        lines.append(_command("user", "grant-role", name, name))
    return lines


def _range(permission: Permission, *first: str) -> list[str]:
    key, end = permission.key.decode(), permission.end.decode()
    if permission.end == range_end(permission.key):
        return ["--prefix=true", *first, key]
    return [*first, key, *([end] if end else [])]


def _command(*words: str) -> str:
    return shlex.join(["etcdctl", *words])


def _by_key(permission: Permission) -> tuple[bytes, bytes]:
    return permission.key, permission.end
