"""Pyramid Vision Transformer."""
