"""Folders of models for the Hugging Face hub."""
