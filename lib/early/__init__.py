"""Routes before a client's first instruction, in threads and shells of their own.

Whatever fails here costs nothing: the pass that follows every start verifies and repairs. It must
never wait for the pass, nor make it wait.
"""
