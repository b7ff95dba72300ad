"""Installs and removes a systemd service: what is wanted, what is there, and the steps between. Not used by `run`."""
