"""A command line's arguments, whose mistakes are errors like any other."""

import argparse
from typing import NoReturn

from tortie.lib.errors import InvalidInput


class Parser(argparse.ArgumentParser):
    """Raises `InvalidInput` for mistakes, on one line; sub-parsers do as well."""

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{message}; see {self.prog} --help")
