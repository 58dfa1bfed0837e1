"""Weights of this project and of others: read, checked against a model, written."""
