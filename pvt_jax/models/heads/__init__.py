"""Heads: from a backbone's features to the prediction of one task."""
