"""Prints which Python and platform wheels are for, such as cp311-linux_x86_64."""

import sys
import sysconfig

print(f"cp{sys.version_info.major}{sys.version_info.minor}-{sysconfig.get_platform().replace('-', '_')}")
