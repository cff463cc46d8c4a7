"""The project's own format in transformers: `quant_method: "abq"`, loaded on the packed engine.

`import abq_core` registers it. Without that import, transformers does not know the model type of such a folder, and no
file has the name that it looks for: loading fails, and never ends with random weights.
"""
