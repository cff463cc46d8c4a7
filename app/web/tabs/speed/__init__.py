"""The Throughput tab and the texts and tables that it shows."""
