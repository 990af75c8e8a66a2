"""The parts of wgroutemgr, in layers; an import may only point downwards.

`daemon` > `reconciler` > `engine`, `shell` > `desired`, `plan`, `iproute`, `labels`, `identity`,
`settings` > `model` > `errors`. The third group and what is below it is pure: no Docker, no
processes, no clock, no threads, no logging.
"""
