"""Techniques that make neural networks train faster and more reliably.

Each one is a function for the training loop that you already have: it imports torch and the
standard library, restores what it touched, and says what it did.
"""

__version__ = "0.1.0"
