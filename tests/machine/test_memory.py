"""Objects that exist now are excluded from garbage collection; later ones are not."""

import gc
import weakref

from machine.memory import keep_imported_modules


def test_later_garbage_is_still_collected():
    class Knot:
        def __init__(self):
            self.itself = self

    old, new = Knot(), None
    before, kept = gc.get_freeze_count(), weakref.ref(old)
    try:
        keep_imported_modules()
        new = Knot()
        found = weakref.ref(new)
        del old, new
        gc.collect()
        assert gc.get_freeze_count() > before
        assert kept() is not None and found() is None
    finally:
        gc.unfreeze()
    gc.collect()
    assert kept() is None
