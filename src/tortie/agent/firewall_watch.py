"""Says, in readiness, whether another firewall of this host drops what workloads send.

What to do about it is for whoever owns that firewall.
"""

import asyncio
import logging

from tortie.kernel.firewall.obstacle import find_obstacles
from tortie.kernel.nft.connection import Nft
from tortie.lib.errors import TortieError
from tortie.lib.health import Reporter

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0


class FirewallWatch:
    def __init__(self, prefixes: tuple[str, ...], health: Reporter, *, ipv6: bool) -> None:
        self._prefixes = prefixes
        self._health = health
        self._ipv6 = ipv6
        self._said = ""

    async def run(self) -> None:
        """For ever."""
        nft = Nft.open()
        try:
            while True:
                await self.check(nft)
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            nft.close()

    async def check(self, nft: Nft) -> None:
        """Look once, and say what is found; log it when it is something new."""
        try:
            found = [
                obstacle
                for prefix in self._prefixes
                for obstacle in await find_obstacles(nft, prefix, ipv6=self._ipv6)
            ]
        except TortieError as error:
            # Not knowing is no reason to be taken out of service.
            self._say(f"other firewalls cannot be read: {error}", ready=True)
            return
        self._say(". ".join(map(str, found)), ready=not found)

    def _say(self, text: str, *, ready: bool) -> None:
        if ready:
            self._health.ready(text)
        else:
            self._health.not_ready(text)
        if text and text != self._said:
            log.warning("%s", text)
        self._said = text
