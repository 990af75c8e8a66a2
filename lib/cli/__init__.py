"""The commands that take one look and end, and how they print what they found."""
