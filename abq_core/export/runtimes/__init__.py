"""Programs that run an export in another runtime, each in a process of its own; see `proof.py`.

Each is a script: `python FILE FOLDER REQUEST ANSWER`. They import nothing of this project but what they test.
REQUEST (.npz): `ids` (n, tokens) int64, `prompt` (p,) int64, `new_tokens`, `vocabulary`, `threads`; `text` and its
token ids `text_ids`, which the runtime's tokenizer has to give too; `plain`, the id of a token that is a letter.
ANSWER (.npz): `log_probabilities` (n, tokens, vocabulary) float32, `generated` (new_tokens,) int64, `seconds` of
generation, `runtime` (name and version).
"""
