"""Names that a folder of the project's own format uses."""

METHOD = "abq"  # of the quantization config
VARIANT = "abq"  # of the weights: model.abq.safetensors, which transformers opens only where it is named
FORMAT_VERSION = 1
