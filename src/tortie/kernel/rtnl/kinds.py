"""Message types of rtnetlink, and how a request treats what exists.

Plain integers: bulk requests pack tens of thousands of them.

Source: include/uapi/linux/rtnetlink.h, include/uapi/linux/netlink.h.
"""

from tortie.kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE

NEW_LINK, DELETE_LINK, GET_LINK, SET_LINK = 16, 17, 18, 19
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
NEW_RULE, DELETE_RULE, GET_RULE = 32, 33, 34
NEW_QDISC, DELETE_QDISC, GET_QDISC = 36, 37, 38
NEW_FILTER, DELETE_FILTER, GET_FILTER = 44, 45, 46

ADD = NLM_F_CREATE | NLM_F_EXCL
"""An error if it exists."""
REPLACE = NLM_F_CREATE | NLM_F_REPLACE
"""In one step, without a moment of nothing."""

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
"""Linux's numbers; the `socket` module's are enum members and slow to pack."""
AF = {4: AF_INET, 6: AF_INET6}
FAMILY = {AF_INET: 4, AF_INET6: 6}
