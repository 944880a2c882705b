"""The only room that opens anything: netlink sockets, /proc, namespaces, recordings."""
