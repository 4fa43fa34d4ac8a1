"""What `offload run` is made of: the programs of its roles, started, watched and ended together."""
