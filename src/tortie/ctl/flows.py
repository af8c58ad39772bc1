"""`tortie flows`: who was let through or denied on this host, and by which rule."""

from __future__ import annotations

from pathlib import Path

from tortie.agent import flow_client
from tortie.agent.flow_record import SOCKET_NAME
from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen


def main(given: Given, screen: Screen) -> int:
    wanted = flow_client.make_wanted(
        output=given.text("output"),
        follow=given.has("follow"),
        since=given.text("since"),
        verdict=given.text("verdict"),
        sources=given.texts("from"),
        destinations=given.texts("to"),
        ports=given.texts("port"),
    )
    path = Path(given.text("run-directory", "/run/tortie")) / SOCKET_NAME

    def out(text: str) -> None:
        screen.print(text)
        screen.out.flush()

    return flow_client.show({"": path}, wanted, out, screen.warn)
