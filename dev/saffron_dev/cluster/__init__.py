"""The whole cluster on one machine: a control plane and a node, in namespaces that end with one process."""
