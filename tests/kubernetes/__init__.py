"""A real Kubernetes API server with etcd as a workload's target, and the clients of it."""
