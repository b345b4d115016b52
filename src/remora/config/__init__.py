"""Study files: YAML 1.2 scalars, overrides, one strict tree of settings, its fingerprint. Imports no torch."""
