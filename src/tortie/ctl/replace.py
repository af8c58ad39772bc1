"""`tortie replace`: see `tortie.ctl.writing`."""

from tortie.ctl.grammar import Given
from tortie.ctl.screen import Screen
from tortie.ctl.writing import Way, run


def main(given: Given, screen: Screen) -> int:
    return run(Way.REPLACE, given, screen)
