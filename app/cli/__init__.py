"""The commands of `abq`, one module per noun. main.py assembles them."""
