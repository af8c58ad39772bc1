"""What takes too long for each run: `make soak` alone collects it (see tests/conftest.py)."""

from tests.faults.conftest import census, field

__all__ = ["census", "field"]
