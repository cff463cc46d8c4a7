"""Loading Hugging Face models safely, and the architectures that the project supports."""
