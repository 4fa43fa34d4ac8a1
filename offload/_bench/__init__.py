"""What `offload bench` is made of: the load generator, the servers, the statistics, the report."""
