"""Checkpoints: the Orbax layout of a run, and reading variables back."""
