"""What the tests of both decoders read: the families that have one, a prompt, and the tokens that follow it."""

DECODED = ("llama", "llama-3.1", "mistral", "qwen2")
PROMPT = list(range(20, 31))
FOLLOWING = [40, 41, 42, 43, 44, 45]
