"""The whole way on one machine: what the operator does with Jobs in a cluster, done with processes in folders."""
