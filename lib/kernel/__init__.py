"""What the Linux kernel is asked and told: namespaces, routes, addresses, command lines.

The only importer of `sh` and `ctypes`, and the only one that opens netlink sockets. It decides
nothing.
"""
