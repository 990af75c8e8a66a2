"""The benchmark: what `./tests/bench` runs, see `tests/benchmark/__main__.py`.

It measures from outside, with the kernel and a program of its own as witnesses; the product knows
nothing of it.
"""
