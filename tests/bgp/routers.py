"""Routers of other makes, as the fabric has them: GoBGP and FRR."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bgp.site import Site, eventually, run

GOBGP_AS = 64700
FRR_AS = 64600
ROGUE_AS = 64666
PASSWORD = "s3cret #{};'"


class GoBGP:
    """A switch that takes sessions from the segment and tells what it was told."""

    def __init__(
        self, site: Site, ordinal: int = 200, *, ttl: int = 8, host_as: int = 64512
    ) -> None:
        self.router = site.add_router(f"go{ordinal}", ordinal)
        self.ttl = ttl
        self.host_as = host_as
        path = self.router.directory / "gobgpd.toml"
        path.write_text(self._configuration(site))
        self._api = f"127.0.0.1:{50051}"
        self.router.spawn(
            *["gobgpd", "-f", str(path), "--api-hosts", self._api, "--pprof-disable"],
            log="gobgpd.log",
        )

    def _configuration(self, site: Site) -> str:
        lines = ["[global.config]", f"as = {GOBGP_AS}", f'router-id = "{self.router.ipv4}"']
        for host in site.hosts.values():
            for address, family in ((host.ipv4, "ipv4"), (host.ipv6, "ipv6")):
                lines += [
                    "[[neighbors]]",
                    "[neighbors.config]",
                    f'neighbor-address = "{address}"',
                    f"peer-as = {self.host_as}",
                    f'auth-password = "{PASSWORD}"' if family == "ipv4" else "",
                    "[neighbors.transport.config]",
                    "passive-mode = true",
                    "[neighbors.ebgp-multihop.config]",
                    "enabled = true",
                    f"multihop-ttl = {self.ttl}",
                    "[[neighbors.afi-safis]]",
                    "[neighbors.afi-safis.config]",
                    f'afi-safi-name = "{family}-unicast"',
                ]
        return "\n".join(lines)

    async def ready(self) -> None:
        await eventually(lambda: bool(self._ask("global", check=False)), "GoBGP answers")

    def inject(self, prefix: str, *words: str) -> None:
        family = "ipv6" if ":" in prefix else "ipv4"
        self._ask("global", "rib", "add", prefix, *words, "-a", family)

    def withdraw(self, prefix: str) -> None:
        self._ask("global", "rib", "del", prefix)

    def received(self, family: int = 4) -> dict[str, list[dict[str, Any]]]:
        """Paths that it was told, by prefix."""
        answer = self._ask("global", "rib", "-j", "-a", f"ipv{family}", check=False)
        found: dict[str, list[dict[str, Any]]] = json.loads(answer or "{}")
        return {
            prefix: paths
            for prefix, all_paths in found.items()
            if (paths := [path for path in all_paths if path.get("source-id")])
        }

    def _ask(self, *words: str, check: bool = True) -> str:
        return self.router.execute("gobgp", "-p", "50051", *words, check=check)


class Rogue:
    """A BIRD of somebody else's that says to `host` what it likes."""

    def __init__(self, site: Site, host: str, networks: Iterable[str], ordinal: int = 201) -> None:
        self.router = site.add_router(f"rogue{ordinal}", ordinal)
        self.routes = tuple(networks)
        lines = [f"router id {self.router.ipv4};", "protocol device {}", "protocol static {"]
        lines += ["ipv4;", *(f"route {network} blackhole;" for network in self.routes), "}"]
        lines += [
            "protocol bgp victim {",
            f"local {self.router.ipv4} as {ROGUE_AS};",
            f"neighbor {site[host].ipv4} as 64512;",
            "connect delay time 1; error wait time 1,2; graceful restart off;",
            "ipv4 { import none; export all; };",
            "}",
        ]
        (self.router.directory / "bird.conf").write_text("\n".join(lines))

    def start(self) -> None:
        at = self.router.directory
        self._process = self.router.spawn(
            *["/usr/sbin/bird", "-f", "-c", f"{at}/bird.conf", "-s", f"{at}/ctl"], log="bird.log"
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def attribute(path: dict[str, Any], kind: int) -> dict[str, Any]:
    """A path attribute by its type (RFC 4271, section 5); empty if it is not there."""
    return next((found for found in path["attrs"] if found["type"] == kind), {})


def as_path(path: dict[str, Any]) -> list[int]:
    return [n for part in attribute(path, 2).get("as_paths", []) for n in part["asns"]]


def communities(path: dict[str, Any]) -> list[str]:
    """Standard and large ones, as text."""
    small = [f"{c >> 16}:{c & 0xFFFF}" for c in attribute(path, 8).get("communities", [])]
    large = [
        f"{c['ASN']}:{c['LocalData1']}:{c['LocalData2']}"
        for c in attribute(path, 32).get("value", [])
    ]
    return small + large


class FRR:
    """A top-of-rack switch with password and BFD."""

    def __init__(self, site: Site, ordinal: int = 254, *, bfd: bool = True) -> None:
        self.router = site.add_router("frr", ordinal)
        self.directory = Path(f"/run/{site.prefix}frr")
        self.directory.mkdir()
        site.directories.append(self.directory)
        (self.directory / "zebra.conf").write_text("hostname tor\n")
        (self.directory / "bfdd.conf").write_text("hostname tor\n")
        (self.directory / "bgpd.conf").write_text(self._configuration(site, bfd=bfd))
        shutil.chown(self.directory, "frr", "frr")
        for file in self.directory.iterdir():
            shutil.chown(file, "frr", "frr")

    async def start(self) -> None:
        for name in ("zebra", "bfdd", "bgpd"):
            more = ["--bfdctl", f"{self.directory}/bfdd.sock"] if name == "bfdd" else []
            self.router.spawn(
                *[f"/usr/lib/frr/{name}", "-f", f"{self.directory}/{name}.conf"],
                *["-i", f"{self.directory}/{name}.pid", "-z", f"{self.directory}/zserv.api"],
                *["--vty_socket", str(self.directory), "-A", "127.0.0.1", *more],
                log=f"{name}.log",
            )
            socket = self.directory / f"{name}.vty"
            await eventually(socket.exists, f"{name} runs")

    def _configuration(self, site: Site, *, bfd: bool) -> str:
        lines = [
            f"router bgp {FRR_AS}",
            f" bgp router-id {self.router.ipv4}",
            " no bgp ebgp-requires-policy",
            " no bgp default ipv4-unicast",
            " bgp graceful-restart",
            " bgp bestpath as-path multipath-relax",
            " timers bgp 3 9",
        ]
        for family in (4, 6):
            for host in site.hosts.values():
                address = host.ipv4 if family == 4 else host.ipv6
                lines.append(f" neighbor {address} remote-as 64512")
                lines.append(f" neighbor {address} timers connect 2")
                lines.append(f" neighbor {address} password {PASSWORD.replace(' ', '')}")
                if bfd:
                    lines.append(f" neighbor {address} bfd")
        for family in (4, 6):
            lines.append(f" address-family ipv{family} unicast")
            for host in site.hosts.values():
                address = host.ipv4 if family == 4 else host.ipv6
                lines.append(f"  neighbor {address} activate")
            lines += ["  maximum-paths 8", " exit-address-family"]
        return "\n".join(lines) + "\n"

    def routes(self, family: int = 4) -> dict[str, Any]:
        answer = self.ask(f"show bgp ipv{family} unicast json")
        found: dict[str, Any] = json.loads(answer or "{}").get("routes", {})
        return found

    def ask(self, command: str) -> str:
        return run("vtysh", "--vty_socket", str(self.directory), "-c", command, check=False)
