"""Side-by-side benchmarks of Remora against peft + transformers.Trainer; runnable by anyone with public tools."""
