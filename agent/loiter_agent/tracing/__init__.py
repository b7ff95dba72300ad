"""A BPF program without a compiler or a library: the kernel's types, the instructions, the system call."""
