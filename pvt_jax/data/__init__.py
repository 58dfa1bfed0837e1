"""Data: sources, transforms and the input pipeline, on the host. Nothing here imports a model."""
