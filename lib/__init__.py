"""The parts of wgroutemgr, in layers; an import may only point downwards.

`daemon` | `cli` > `early` | `doctor` > `reconcile` > `engine` > `kernel` > `routing` > `settings` >
`model` > `errors`. pyproject.toml has the whole list. `routing` and what is below it are pure.
"""
