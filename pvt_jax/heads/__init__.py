"""Heads: the maps of a backbone → the prediction of a dense task. One folder a head."""
