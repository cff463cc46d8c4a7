"""GGUF files as models: a checked header, the config and tokenizer that it describes, and dequantized weights."""
