"""Semantic FPN."""
