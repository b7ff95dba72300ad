"""What the reference says of the code, taken from the code."""
