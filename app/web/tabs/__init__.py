"""The six tabs, one a file: each wires widgets to the services and shows what they return."""
