"""`python -m tortie`."""

from tortie.ctl.main import entry

entry()
