"""A lab of hosts with systemd as PID 1, each with a network of its own, on one machine.

A host is a systemd-nspawn container over a template that debootstrap built. What it takes of the machine is in
`machine`, what each odd step is for is said where it is taken. `python -m systemd.lab` (in tests/) builds the template
beforehand.
"""

from systemd.lab.fleet import Fleet
from systemd.lab.host import Host

__all__ = ["Fleet", "Host"]
