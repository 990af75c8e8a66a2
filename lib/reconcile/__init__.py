"""One pass: what the labels ask for is compared with the routes that are there, and set.

It is the only place that decides on changes to a client's routes after the client has started. It
does not know when it runs: the daemon says so.
"""
