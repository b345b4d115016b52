"""Remora: which fine-tuning method should I use on my data, how well does it really do, and what does it cost?"""

__version__ = "0.1.0"
