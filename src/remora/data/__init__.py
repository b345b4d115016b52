"""Labelled text: read, check, split, order, tokenize."""
