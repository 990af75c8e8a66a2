"""The command line, and the commands that look once and end."""
