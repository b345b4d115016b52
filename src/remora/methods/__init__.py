"""Fine-tuning methods, one file each; `registry` finds them."""
