"""The Kubernetes API: what HTTP requests to a kube-apiserver mean. HTTP itself is ``hostagent.inspectors.http``; no second reader of it lives here."""
