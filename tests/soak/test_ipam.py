"""IPAM's state machine at full length: five thousand histories of two hundred steps.

`TORTIE_SOAK_EXAMPLES` makes it shorter.
"""

import os

import pytest
from hypothesis import settings
from tests.property.test_ipam import Ipam

EXAMPLES = int(os.environ.get("TORTIE_SOAK_EXAMPLES", "5000"))
STEPS = 200

pytestmark = pytest.mark.timeout(6 * 3600)


class LongIpam(Ipam):
    pass


LongIpam.TestCase.settings = settings(
    Ipam.TestCase.settings, max_examples=EXAMPLES, stateful_step_count=STEPS
)
TestLongIpam = LongIpam.TestCase
