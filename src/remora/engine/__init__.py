"""Packed lanes: many trials trained at once over one frozen base."""
