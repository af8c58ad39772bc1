"""What all tests share: random tests are the same ones each time, so that a run repeats.

`make soak` looks further: it sets TORTIE_RANDOM and gives seeds.
"""

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
if not os.environ.get("TORTIE_RANDOM"):
    settings.load_profile("repeatable")
