"""The agent: samples the TCP sockets and file descriptors of one host and reports them to an aggregator."""
