"""Studies: protocol, tuning, scheduling of packs, statistics."""
