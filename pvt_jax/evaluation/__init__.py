"""Evaluation: sums that merge over batches and hosts, padding masked."""
