"""`tortie datastore migrate unlock`: agents and plugins go on."""

from tortie.ctl.grammar import Given
from tortie.ctl.locking import set_ready
from tortie.ctl.screen import Screen


def main(given: Given, screen: Screen) -> int:
    set_ready(given, ready=True)
    screen.print("Datastore unlocked.")
    return 0
