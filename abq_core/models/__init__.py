"""Load Hugging Face models safely; the table of supported architectures."""
