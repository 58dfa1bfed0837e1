"""What several models share: layers, blocks, attention, normalization, padding, necks."""
