"""Checks every prerequisite and follows a packet. It may only read."""
