"""Messages and services generated from the .proto files beside this file. Made by `make proto`."""
