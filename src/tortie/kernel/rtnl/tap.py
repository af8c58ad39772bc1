"""TAP devices: the link of a virtual machine. Made by ioctl; rtnetlink cannot."""

import errno
import fcntl
import os
import struct

from tortie.kernel.sysctl import check_interface_name
from tortie.lib.errors import AlreadyExists, kernel_error

_DEVICE = "/dev/net/tun"

# include/uapi/linux/if_tun.h
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI = 0x0002, 0x0100, 0x1000
_IFF_VNET_HDR, _IFF_TUN_EXCL = 0x4000, 0x8000

_REQUEST = struct.Struct("=16sH22x")
"""struct ifreq with its flags."""


def create_tap(
    name: str, *, owner: int | None = None, multi_queue: bool = False, vnet_header: bool = True
) -> None:
    """Make a persistent TAP device in the calling thread's namespace; it is down.

    For another namespace call it in `netns.run_in`: what counts is who opens
    the device file. Delete it like any link.

    Args:
        owner: numeric user that may attach to it without CAP_NET_ADMIN.
        multi_queue: one queue for each virtual CPU; whoever attaches must ask alike.
        vnet_header: virtio's offload header before each frame; likewise.

    Raises:
        AlreadyExists: the name is taken.
        KernelRefused: no permission, or no TUN/TAP in this kernel.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL
    flags |= _IFF_MULTI_QUEUE if multi_queue else 0
    flags |= _IFF_VNET_HDR if vnet_header else 0
    request = _REQUEST.pack(check_interface_name(name).encode(), flags)
    try:
        handle = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _TUNSETIFF, request)
            if owner is not None:
                fcntl.ioctl(handle, _TUNSETOWNER, owner)
            # Last: until here the device goes with the descriptor.
            fcntl.ioctl(handle, _TUNSETPERSIST, 1)
        finally:
            os.close(handle)
    except OSError as error:
        # EBUSY: another tap has the name. EINVAL: a link that is none.
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise AlreadyExists(f"create tap {name}: File exists") from error
        raise kernel_error(f"create tap {name}", error.errno or errno.EIO) from error
