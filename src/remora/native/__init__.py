"""Compiled pieces of the CPU path, built on first use with the machine's own C compiler; torch does without them."""
