"""From a label to command lines: labels, desired routes, plan, words of `ip`.

Pure: no engine, no process, no clock, no thread, no log.
"""
