"""What a resource must be like to be stored, and what is filled in where it says nothing.

`validate` lists every problem, `check` raises the first few, `with_defaults` completes.
All are pure and look at one object only; rules about others (does the tier exist, do pools
overlap) are in `tortie.datastore.resources`.

Source: Calico, libcalico-go/lib/validator/v3, lib/clientv3, api/pkg/defaults, and the rules
in its resource schemas.
"""

from tortie.model.validation.defaults import with_defaults
from tortie.model.validation.entry import check, validate
from tortie.model.validation.terms import Problem

__all__ = ["Problem", "check", "validate", "with_defaults"]
