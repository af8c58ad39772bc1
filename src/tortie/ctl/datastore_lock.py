"""`tortie datastore migrate lock`: agents and plugins keep what they have, and wait."""

from tortie.ctl.grammar import Given
from tortie.ctl.locking import set_ready
from tortie.ctl.screen import Screen


def main(given: Given, screen: Screen) -> int:
    set_ready(given, ready=False)
    screen.print("Datastore locked.")
    return 0
