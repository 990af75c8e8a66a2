"""What the Docker Engine tells, as values of `lib.model`, and which of its containers we are.

The only importer of `docker`. Reads only; it decides nothing about routes.
"""
