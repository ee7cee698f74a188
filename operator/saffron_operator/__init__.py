"""The operator: observe the cluster, decide what is next (pure), act once."""
