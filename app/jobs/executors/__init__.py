"""Where jobs run: on this machine (local), or on a cluster (cluster, and ray for the one kind that there is)."""
