"""Adapters on disk: the PEFT format in and out, merged models, model cards."""
