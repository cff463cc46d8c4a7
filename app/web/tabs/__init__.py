"""The six tabs, one per file. Each wires widgets to the services and shows their results."""
