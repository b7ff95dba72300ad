"""What pages show, worked out from answers. Pure."""
