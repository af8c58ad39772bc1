"""The collector is off while much is loaded, and on again behind it."""

import gc

from tortie.lib import memory


def test_loading_is_not_collected_and_then_left_alone() -> None:
    try:
        memory.begin_loading()
        assert not gc.isenabled()
        before = gc.get_freeze_count()
        memory.settle()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.enable()
        gc.unfreeze()
