"""Routes before a client's first instruction, in threads and shells of their own.

`service` has the thread and its loop, `arrival` what is known of one new namespace, `lookup` the
questions to the engine, `known` what is remembered of containers, `watch` the directory in which
namespaces appear. Whatever fails here costs nothing: the pass that follows every start verifies and
repairs. It must never wait for the pass, nor make it wait.
"""
