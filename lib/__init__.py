"""The parts of wgroutemgr, in layers; an import may only point downwards.

`daemon` > `reconciler`, `commands` > `survey` > `engine`, `shell` > `desired` > `plan`, `iproute`,
`labels`, `identity`, `settings` > `model` > `errors`. From `desired` on all is pure: no Docker, no
processes, no clock, no threads, no logging. pyproject.toml has the whole list.
"""
