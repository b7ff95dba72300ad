"""Reports of the fleet: what is new, worse and resolved, built on a schedule and sent."""
