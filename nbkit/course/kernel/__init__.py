"""Execute one notebook in a kernel, headless."""
