"""`tortie node` and `tortie bgp` against running BIRDs."""

import asyncio
import io
from pathlib import Path

import pytest
from tests.bgp.site import Site, run, site

from tortie.ctl.bgp import main as bgp
from tortie.ctl.node import main as node
from tortie.lib.errors import Unavailable


def shown(made: Site, name: str, *words: str) -> str:
    out = io.StringIO()
    command = node if words[0] == "status" else bgp
    # The socket is the host's own: where the command runs does not matter.
    directory = made[name].run_directory
    parent = directory.parent / f"{directory.name}-run"
    parent.mkdir(exist_ok=True)
    made.directories.append(parent)
    link = parent / "bird"
    if not link.exists():
        link.symlink_to(directory)
    assert command([*words, "--run-directory", str(parent)], out) == 0
    return out.getvalue()


def test_node_status_and_routes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path, 2) as made:
            made.put("BGPPeer", "gone", {"peerIP": "172.30.0.99", "asNumber": 65000})
            refusing = {"peerIP": f"{made['h2'].ipv4}:1790", "asNumber": 65000, "node": "h1"}
            made.put("BGPPeer", "refusing", refusing)
            await made.apply()
            await made.meshed()
            text = ""

            async def there() -> bool:
                nonlocal text
                text = await asyncio.to_thread(shown, made, "h1", "status")
                return "refused" in text and text.count("Established") == 2

            for _ in range(100):
                if await there():
                    break
                await asyncio.sleep(0.1)
            lines = text.splitlines()
            assert lines[:2] == ["Calico process is running.", ""]
            assert lines[2] == "IPv4 BGP status"
            header = next(line for line in lines if "PEER ADDRESS" in line)
            assert [cell.strip() for cell in header.strip("|").split("|")] == [
                "PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO",
            ]  # fmt: skip
            mesh = next(line for line in lines if "node-to-node mesh" in line)
            cells = [cell.strip() for cell in mesh.strip("|").split("|")]
            assert cells[0] == "172.30.0.2"
            assert cells[2] == "up"
            assert cells[4] == "Established"
            refused = next(line for line in lines if "node specific" in line)
            assert "Connection refused: nothing listens there" in refused
            assert any("172.30.0.99" in line and "global" in line for line in lines)
            routes = await asyncio.to_thread(shown, made, "h1", "routes", "--best")
            row = next(line for line in routes.splitlines() if "10.65.2.0/26" in line)
            assert "via 172.30.0.2 on eth0" in row
            assert "Peer_172_30_0_2" in row
            six = await asyncio.to_thread(shown, made, "h1", "routes", "--ip-version", "6")
            assert "fd65::2:0/122" in six
            assert "10.65.2.0/26" not in six

    asyncio.run(scenario())


def test_without_bird_the_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="programClusterRoutes"):
        node(["status", "--run-directory", str(tmp_path)], io.StringIO())


def test_autodetect_on_this_machine() -> None:
    out = io.StringIO()
    assert node(["autodetect", "--method", "interface=^lo$", "--explain"], out) == 1
    assert "lo: 127.0.0.1/8 is loopback" in out.getvalue()
    first = run("ip", "-4", "-o", "addr", "show", "up", "scope", "global").split()
    out = io.StringIO()
    if first:
        assert node(["autodetect", "--method", f"interface=^{first[1]}$"], out) == 0
        assert out.getvalue().strip() == f"{first[3]} on {first[1]}"
