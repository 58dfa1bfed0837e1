"""Backbones: images → a pyramid of maps, or class scores. One folder a family."""
